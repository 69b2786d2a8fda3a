"""Train the shipped Diffusers pipeline of the world ``shapes`` anew: ``python -m tools.shapes_pipeline``.

A Stable Diffusion in small: a CLIP text encoder with frozen random weights, an autoencoder of two pixels to a
latent's side, and a U-Net that predicts v on SD's table with zero terminal SNR (Lin et al., 2023, arXiv
2305.08891). The U-Net is trained and sampled through the house's own way in and out of Diffusers. About half
an hour on one core; a run that was cut short goes on where it was.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from stillhouse.core.conditions import as_parts
from stillhouse.core.draws import Draws, seed_of
from stillhouse.io.pipelines.quiet import quiet
from stillhouse.io.pipelines.tiny_text import clip_tokenizer
from stillhouse.io.weights import atomic_write
from stillhouse.metrics.captions import VOCABULARY
from stillhouse.metrics.reader import load_reader, prompt_fidelity
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import World, get_world
from tools.teachers import quality

PLACE = Path(__file__).parents[1] / "stillhouse" / "assets" / "pipelines" / "shapes"
PLAIN = Path(__file__).with_name("plain_call.py")
LENGTH, WIDTH = 12, 64  # tokens of a prompt, and the size of one
CODEC_STEPS, DECODER_STEPS, CODEC_BATCH, CODEC_RATE = 900, 600, 32, 2e-3
PICTURES = 24_000  # encoded once
ROUNDS = (5000,)  # steps; a round begins with the averaged weights of the one before and its rate falls anew
RUN: dict[str, Any] = {
    "batch": 32,
    "warmup": 100,
    "ema": 0.999,
    "save_every": 250,
    "keep_checkpoints": 1,
    "seed": 0,
}
STEPS, SCALES, MEASURED = 25, (1.0, 2.0, 3.0, 5.0), 300  # samples per split and scale
QUICK = {"n": 60, "steps": 10}  # what a test can afford to measure again


def text_parts() -> tuple[Any, Any]:
    """The tokenizer, one token a word, and the text encoder, whose random weights are never trained.

    Words and places are embedded equally large, and a hundred times larger than CLIP does: the layers then
    add to them without drowning them.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    # a merge of one word must not break up another: the longest come first
    tokenizer = clip_tokenizer(sorted(VOCABULARY, key=len, reverse=True), LENGTH)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config).eval().requires_grad_(False)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "embedding" in name:
                weight.normal_()
            elif weight.dim() == 2:
                weight.normal_(std=0.5 / math.sqrt(weight.shape[1]))
    return tokenizer, encoder


def new_pipeline(seed: int = 0) -> Any:
    """The untrained pipeline; the same for the same seed."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("shapes pipeline", seed))
        tokenizer, encoder = text_parts()
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(16, 32),
            latent_channels=4,
            norm_num_groups=8,
            sample_size=32,
            mid_block_add_attention=False,
        )
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 48, 80),
            layers_per_block=1,
            norm_num_groups=16,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            # every block also hears the prompt pooled into the time: attention alone learns very slowly which
            # word is whose
            addition_embed_type="text",
            addition_embed_type_num_heads=16,
        )
        scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=True,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def train_codec(vae: Any, world: World, steps: int = CODEC_STEPS, decoder_steps: int = DECODER_STEPS) -> None:
    """Train an autoencoder on endless renders, and set its scaling factor so that latents have unit variance.

    L1 and a faint Kullback-Leibler term per latent number, which keeps latents near each other (Rombach et
    al., 2021, arXiv 2112.10752, section 3.1; without the discriminator and the perceptual loss: these
    pictures have no texture). Then the decoder alone goes on.
    """
    _fit(vae, world, steps, "codec", list(vae.parameters()))
    images, _ = world.sample_data(500, Draws(500, "shapes codec", "scale"))
    with torch.no_grad():
        vae.register_to_config(
            scaling_factor=round(1 / float(vae.encode(images).latent_dist.mode().std()), 4)
        )
    _fit(vae, world, decoder_steps, "decoder", [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()])


def _fit(vae: Any, world: World, steps: int, what: str, learning: list[torch.nn.Parameter]) -> None:
    """``steps`` steps of Adam on the parts ``learning`` of the autoencoder, the others left as they are."""
    vae.train().requires_grad_(False)
    for weight in learning:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(learning, CODEC_RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, CODEC_RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        draws = Draws(CODEC_BATCH, f"shapes {what}", step)
        images, _ = world.sample_data(CODEC_BATCH, draws)
        pred = vae.encode(images).latent_dist
        z = pred.mean + pred.std * draws.normal(*pred.mean.shape[1:])
        kl = 0.5 * (pred.mean**2 + pred.var - 1 - pred.logvar).mean()
        loss = F.l1_loss(vae.decode(z).sample, images) + 1e-3 * kl
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        rate.step()
        if step % 50 == 0:
            print(f"{what} {step}/{steps}: {loss.item():.4f}", flush=True)
    vae.eval().requires_grad_(False)


def codec_quality(model: Model, world: World, n: int = 1000) -> dict[str, float]:
    """PSNR in decibels of ``n`` fresh renders through the codec and back, and how well they can still be
    read."""
    images, ids = world.sample_data(n, Draws(n, "shapes codec", "quality"))
    assert model.codec is not None
    again = torch.cat([model.codec.decode(model.codec.encode(some)) for some in images.split(100)])
    error = float(((again.clamp(-1, 1) - images) ** 2).mean())
    return {"psnr": 10 * math.log10(4 / error), **prompt_fidelity(load_reader(), again, ids)}


def encoded(model: Model, world: World, n: int = PICTURES) -> TensorData:
    """``n`` renders as latents, with the embeddings of their captions."""
    assert model.codec is not None and model.text is not None
    latents, ids = [], []
    for start in range(0, n, 500):
        images, labels = world.sample_data(500, Draws(500, "shapes pipeline", "pictures", start))
        latents.append(model.codec.encode(images))
        ids.append(labels)
    bank = as_parts(model.text.encode(world.captions))
    return TensorData(torch.cat(latents)[:n], {"tokens": bank["tokens"][torch.cat(ids)[:n]]})


def train(work: Path, world: World, rounds: Sequence[int] = ROUNDS) -> Model:
    """The trained model; what takes long is kept in ``work`` and not made twice."""
    start = work / "start"
    if not (start / "model_index.json").is_file():
        pipe = new_pipeline()
        train_codec(pipe.vae, world)
        pipe.save_pretrained(str(start), safe_serialization=True)
    model = replace(load(start), world=world.name)
    data, student = encoded(model, world), None
    for number, steps in enumerate(rounds, 1):
        trainer = Trainer(
            Denoising(steps=8),
            model,
            data,
            Recipe(steps=steps, **RUN),
            student=student,
            out=work / f"run-{number}",
        )
        student = trainer.fit(resume=True).denoiser
    assert student is not None
    return replace(model, denoiser=student)


def ship(model: Model, world: World, place: Path = PLACE) -> Path:
    """Write the pipeline to ``place``, its network and autoencoder in half precision, with what plain
    Diffusers draws with it measured."""
    assert model.pipeline is not None
    parts = model.denoiser.net, model.pipeline.pipe.vae
    shown = world.balanced_labels(16)
    assert shown is not None
    model = replace(model, world=world.name, prompts=tuple(world.captions[int(i)] for i in shown))
    codec = {k: round(v, 4) for k, v in codec_quality(model, world).items()}

    def write(guidance: float, **info: Any) -> None:
        walk = model.sampling(STEPS).changed(guidance=guidance)
        for part in parts:
            part.half()
        replace(
            model, samplings={STEPS: walk}, info={"method": "denoising", "codec": codec, **info}
        ).save_pretrained(place)
        for part in parts:
            part.float()

    write(2.0)
    measured = fidelity(place, world)
    # a scale of 1 would be saved as a network that needs no guidance
    best = max(SCALES[1:], key=lambda w: measured["train"][f"{w:g}"])
    write(best)  # the quick figures are of the guidance that is kept
    quick = quality(load(place), world, QUICK["n"], QUICK["steps"])
    recipe = {
        "codec": CODEC_STEPS,
        "decoder": DECODER_STEPS,
        "pictures": PICTURES,
        "rounds": list(ROUNDS),
        **RUN,
    }
    write(best, measured=measured, quick=quick, recipe=recipe)
    atomic_write(place / "README.md", card(measured, codec, best, model.parameters).encode())
    return place


def fidelity(
    folder: Path, world: World, n: int = MEASURED, scales: Sequence[float] = SCALES, steps: int = STEPS
) -> dict[str, Any]:
    """Share of captions whose picture shows all they name, by split and guidance scale, drawn by a process
    that imports Diffusers alone."""
    ids = {split: world.balanced_labels(n, split) for split in ("train", "test")}
    jobs = {
        f"{split} {w:g}": {"prompts": [world.captions[int(i)] for i in asked], "steps": steps, "guidance": w}
        for split, asked in ids.items()
        if asked is not None
        for w in scales
    }
    with tempfile.TemporaryDirectory() as name:
        asked_file, made = Path(name) / "jobs.json", Path(name) / "pictures.safetensors"
        asked_file.write_text(json.dumps(jobs))
        # -I: the folder of the script, whose files have names of the standard library's, is no place to
        # import from
        subprocess.run(
            [sys.executable, "-I", "-W", "ignore", str(PLAIN), str(folder), str(asked_file), str(made)],
            check=True,
        )
        pictures = load_file(made)
    found: dict[str, Any] = {"steps": steps, "n": n, "train": {}, "test": {}}
    for job, drawn in pictures.items():
        split, w = job.split()
        found[split][w] = round(prompt_fidelity(load_reader(), 2 * drawn - 1, ids[split])["fidelity"], 4)  # type: ignore[arg-type]
    return found


def card(measured: dict[str, Any], codec: dict[str, float], best: float, parameters: int) -> str:
    """The README of the folder."""
    rows = [
        f"| {w:g} | {measured['train'][f'{w:g}']:.1%} | {measured['test'][f'{w:g}']:.1%} |" for w in SCALES
    ]
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
tags: [diffusers, stillhouse]
---

# Shapes

A Stable Diffusion in small, for trying things out where a real one is too large: pictures of 32x32 pixels
of one or two coloured shapes.
Its {parameters / 1e6:.2f} million weights (U-Net) were trained on Stillhouse's drawn scenes alone; nothing
was downloaded.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("shapes")
how = dict(num_inference_steps={measured["steps"]}, guidance_scale={best:g})
image = pipe("a red circle above a blue square", **how).images[0]
```

It knows the words {", ".join(VOCABULARY)};
a caption is "a COLOUR SHAPE", or two of them with "above", "below", "left of" or "right of" between.
Always pass `guidance_scale`: the pipeline's own default of 7.5 is too much.

## Measured

Share of captions whose picture shows all that they name, as Stillhouse's caption reader sees it: plain
Diffusers calls, DDIM with
{measured["steps"]} steps, {measured["n"]} captions of the training set and {measured["n"]} that were never
drawn for training.

| guidance_scale | training captions | held-out captions |
|---|---|---|
{chr(10).join(rows)}

The autoencoder (4x16x16 latents) alone: {codec["psnr"]:.1f} dB, and {codec["fidelity"]:.1%} of renders are
still read as drawn.

## How it was made

`python -m tools.shapes_pipeline`: a CLIP text encoder with frozen random weights; an autoencoder trained for
{CODEC_STEPS} + {DECODER_STEPS} steps; a U-Net predicting v on Stable Diffusion's table with zero terminal
SNR, {sum(ROUNDS):,} steps of
{RUN["batch"]} from {PICTURES:,} renders, captions hidden from a tenth of them, weights averaged. Half
precision on disk.
"""


def main() -> None:
    """Make the pipeline."""
    world = get_world("shapes")
    place = ship(train(Path("runs/shapes-pipeline"), world), world)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    print(f"{place}: {size / 2**20:.2f} MB, {json.dumps(load(place).info['measured'])}")


if __name__ == "__main__":
    main()
