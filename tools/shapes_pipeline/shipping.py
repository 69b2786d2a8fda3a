"""The trained pipeline measured, and written with its card."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillhouse.io.weights import atomic_write
from stillhouse.metrics.captions import VOCABULARY
from stillhouse.opening import load
from stillhouse.worlds.shapes.world import Shapes
from tools.plain import plain_fidelity
from tools.shapes_pipeline import codec, denoiser, text
from tools.teachers import quality

PLACE = Path(__file__).parents[2] / "stillhouse" / "assets" / "pipelines" / "shapes"
STEPS, SCALES, MEASURED = 25, (1.0, 2.0, 3.0, 5.0), 300  # samples per split and scale
QUICK = {"n": 60, "steps": 10}  # what a test can afford to measure again
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
ROW = re.compile(r"^\| `shapes-pipeline`.*$", re.MULTILINE)  # of the page
RECIPE = {
    "autoencoder": {"rounds": [list(part) for part in codec.ROUNDS], "rate": codec.RATE},
    "naming": {"steps": text.STEPS, "batch": text.BATCH, "rate": text.RATE},
    "denoiser": {
        "steps": denoiser.STEPS,
        "batch": denoiser.BATCH,
        "rate": denoiser.RATE,
        "pictures": denoiser.PICTURES,
        "average": denoiser.AVERAGE,
    },
}


def ship(trained: Path, world: Shapes, place: Path = PLACE) -> Path:
    """Write the pipeline in the folder ``trained`` to ``place``, its network and autoencoder in half
    precision, with what plain Diffusers draws with it measured."""
    opened = load(trained)
    assert opened.pipeline is not None
    pipe, shown = opened.pipeline.pipe, world.balanced_labels(16).tolist()
    model = replace(opened, world=world.name, prompts=tuple(world.captions[i] for i in shown))
    passed = {k: round(v, 4) for k, v in codec.codec_quality(pipe.vae, world).items()}

    def write(guidance: float, **info: Any) -> None:
        walk = model.sampling(STEPS).changed(guidance=guidance)
        for part in (model.denoiser.net, pipe.vae):
            part.half()
        replace(
            model, samplings={STEPS: walk}, info={"method": "denoising", "codec": passed, **info}
        ).save_pretrained(place)
        for part in (model.denoiser.net, pipe.vae):
            part.float()

    write(2.0)
    measured = plain_fidelity(place, world, MEASURED, SCALES, STEPS)
    # a scale of 1 would be saved as a network that needs no guidance
    best = max(SCALES[1:], key=lambda w: measured["train"][f"{w:g}"] + measured["test"][f"{w:g}"])
    write(best)  # the quick figures are of the guidance that is kept
    quick = quality(load(place), world, QUICK["n"], QUICK["steps"])
    write(best, measured=measured, quick=quick, recipe=RECIPE)
    atomic_write(place / "README.md", card(measured, passed, best, model.parameters).encode())
    return place


def publish(folder: Path, page: Path = PAGE) -> None:
    """Put what was measured of a shipped folder into its row of a page."""
    model = load(folder)
    measured, walk = model.info["measured"], next(iter(model.samplings.values()))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    best = f"{walk.guidance:g}"
    others = ", ".join(f"{share:.1%} at {w}" for w, share in measured["train"].items() if w != best)
    row = (
        "| `shapes-pipeline`, a Stable Diffusion in small (`AutoencoderKL`, CLIP text, v, DDIM) | "
        f"{model.parameters / 1e6:.2f} M | {size:.1f} MB | {measured['train'][best]:.1%} at w = {best}, "
        f"{measured['steps']} steps ({others}) | {measured['test'][best]:.1%} |"
    )
    text = ROW.sub(lambda _: row.replace("%", " %"), page.read_text(encoding="utf-8"))
    atomic_write(page, text.encode())


def card(measured: dict[str, Any], passed: dict[str, float], best: float, parameters: int) -> str:
    """The README of the folder."""
    rows = "\n".join(
        f"| {w:g} | {measured['train'][f'{w:g}']:.1%} | {measured['test'][f'{w:g}']:.1%} |" for w in SCALES
    )
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
tags: [diffusers, stillhouse]
---

# Shapes

A Stable Diffusion in small, for trying things out where a real one is too large: pictures of 32x32 pixels of one or two coloured shapes.
Its {parameters / 1e6:.2f} million weights (U-Net) were trained on Stillhouse's drawn scenes alone; nothing was downloaded.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("shapes")
image = pipe("a red circle above a blue square", num_inference_steps={measured["steps"]}, guidance_scale={best:g}).images[0]
```

It knows the words {", ".join(VOCABULARY)};
a caption is "a COLOUR SHAPE", or two of them with "above", "below", "left of" or "right of" between.
Always pass `guidance_scale`: the pipeline's own default of 7.5 is too much.

## Measured

Share of captions whose picture shows all that they name, as Stillhouse's caption reader sees it: plain Diffusers calls, DDIM with
{measured["steps"]} steps, {measured["n"]} captions of the training set and {measured["n"]} that were never drawn for training.

| guidance_scale | training captions | held-out captions |
|---|---|---|
{rows}

The autoencoder (8x8x8 latents, of mean 0 and variance 1 by channel) alone: {passed["psnr"]:.1f} dB, and {passed["fidelity"]:.1%} of renders are still read as drawn.

## How it was made

`python -m tools.shapes_pipeline`: an autoencoder trained on {sum(steps * batch for steps, batch, _ in codec.ROUNDS):,} renders; a CLIP text encoder that first learnt to name the parts of
training captions ({text.STEPS} steps); a U-Net of Stable Diffusion's blocks, predicting v on its table with zero terminal SNR, trained together with the text encoder for
{denoiser.STEPS:,} steps of {denoiser.BATCH} from {denoiser.PICTURES:,} renders, captions hidden from a tenth of them, weights averaged. Half precision on disk.
"""  # noqa: E501
