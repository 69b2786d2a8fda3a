"""Your own SDXL to one step with DMD2, from prompts alone, on one copy of its weights (Yin et al., 2024,
arXiv 2405.14867).

python examples/sdxl_dmd2_one_base.py ./my-sdxl ./prompts.txt    # one GPU with 40 GB; three copies would not
fit on 80 python examples/sdxl_dmd2_one_base.py --quick                    # a tiny pipeline with random
weights, to see that it runs

Teacher, student and fake score are one network with an adapter for each of the last two. Leave `lora` out,
and they are three networks.
"""

import sys
from pathlib import Path

import torch

import stillhouse

QUICK = "--quick" in sys.argv
out = Path("runs/sdxl-dmd2")
if QUICK:
    from stillhouse.io.pipelines.tiny import build

    folder, prompts = build("sdxl", "runs/tiny/sdxl"), Path("runs/tiny/prompts.txt")
    prompts.write_text("a red circle\na blue square above a green circle\na photo of a cat\n")
else:
    folder, prompts = Path(sys.argv[1]), Path(sys.argv[2])

student = stillhouse.distill(
    folder,
    "dmd2",
    data=prompts,
    gan_weight=0.0,  # no pictures, no critic
    # a noise network can't begin at pure noise: its first time is t = 0.4, as in the paper's one-step SDXL
    first_time=0.4,
    steps=1,
    lora=2 if QUICK else 64,
    iterations=2 if QUICK else 20_000,
    batch=2 if QUICK else 32,
    grad_accum=1 if QUICK else 16,
    precision="fp32" if QUICK else "bf16",
    checkpoint_activations=True,
    save_every=0 if QUICK else 500,
    grid_every=0 if QUICK else 500,
    out=out,
    resume=out.exists(),
)
print(student.samplings)

# what a user of yours types: plain Diffusers; the folder brings a scheduler of one page, which has to be
# allowed
from diffusers import DiffusionPipeline  # noqa: E402

pipe = DiffusionPipeline.from_pretrained(out / "model", trust_remote_code=True)
picture = pipe(
    "a red circle above a blue square", num_inference_steps=1, generator=torch.Generator().manual_seed(0)
).images[0]
picture.save(out / "picture.png")
print(f"look at {out}/picture.png; share {out}/model")
