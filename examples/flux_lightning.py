"""A Flux-like model to four steps, progressively and with a critic on pairs (SDXL-Lightning, Lin et al.,
2024, arXiv 2402.13929).

python examples/flux_lightning.py ./my-flux ./my-pictures    # a pipeline's folder, pictures with captions;
one GPU with 80 GB python examples/flux_lightning.py --quick                    # a tiny pipeline with random
weights, to see that it runs

The student keeps the teacher's flow: the same noise gives the same layout, in 4 steps instead of 28.
"""

import sys
from pathlib import Path

import torch

import stillhouse

QUICK = "--quick" in sys.argv
out = Path("runs/flux-lightning")
if QUICK:
    from stillhouse.io.pipelines.tiny import build
    from stillhouse.worlds.shapes.world import write_folder

    teacher, data = (
        stillhouse.load(build("flux", "runs/tiny/flux"), height=64, width=64),
        write_folder("runs/tiny/pictures", 8),
    )
else:
    teacher, data = stillhouse.load(sys.argv[1], dtype=torch.bfloat16), Path(sys.argv[2])

student = stillhouse.distill(
    teacher,
    "sdxl_lightning",
    data=data,
    ladder=(32, 8, 4),  # the teacher's steps, then each student's
    lora=2 if QUICK else 64,
    iterations=4 if QUICK else 6000,
    batch=2 if QUICK else 32,
    grad_accum=1 if QUICK else 16,
    precision="fp32" if QUICK else "bf16",
    checkpoint_activations=True,
    save_every=0 if QUICK else 500,
    grid_every=0 if QUICK else 500,
    out=out,
    resume=out.exists(),
)
picture = student.sample(1, "a red circle above a blue square", seed=0)
print(f"{tuple(picture.shape)} in {list(student.samplings)} steps; share {out}/model")
