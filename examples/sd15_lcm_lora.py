"""Your own Stable Diffusion 1.5 fine-tune as a LoRA that draws in four steps (LCM-LoRA, Luo et al., 2023,
arXiv 2311.05556).

python examples/sd15_lcm_lora.py ./my-sd15 ./my-pictures    # a pipeline's folder, and pictures with captions;
one GPU with 16 GB python examples/sd15_lcm_lora.py --quick                    # a tiny pipeline with random
weights, to see that it runs

Pictures and captions are encoded once and kept beside them. Nothing else is downloaded or needed: latents,
prediction and table of steps are read from the pipeline.
"""

import sys
from pathlib import Path

import torch

import stillhouse

QUICK = "--quick" in sys.argv
out = Path("runs/sd15-lcm-lora")
if QUICK:
    from stillhouse.io.pipelines.tiny import build
    from stillhouse.worlds.shapes.world import write_folder

    folder, data = build("sd", "runs/tiny/sd"), write_folder("runs/tiny/pictures", 8)
else:
    folder, data = Path(sys.argv[1]), Path(sys.argv[2])

teacher = stillhouse.load(folder)
student = stillhouse.distill(
    teacher,
    "lcm",
    data=data,
    steps=4,
    lora=2 if QUICK else 64,  # an adapter on the teacher's weights, which are held once; LCM-LoRA's settings
    iterations=2 if QUICK else 4000,
    batch=4 if QUICK else 64,
    grad_accum=2 if QUICK else 8,
    precision="fp32" if QUICK else "bf16",
    checkpoint_activations=not QUICK,
    save_every=0 if QUICK else 200,
    grid_every=0 if QUICK else 200,
    out=out,
    resume=out.exists(),
)

# what a user of yours types: plain Diffusers, the scheduler comes with the folder
from diffusers import DiffusionPipeline  # noqa: E402

pipe = DiffusionPipeline.from_pretrained(out / "model")
noise = torch.Generator().manual_seed(0)
picture = pipe(
    "a red circle above a blue square", num_inference_steps=4, guidance_scale=1.0, generator=noise
).images[0]
picture.save(out / "picture.png")
print(f"look at {out}/picture.png; share {out}/model")
