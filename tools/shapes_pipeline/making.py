"""The pipeline's parts put together and trained one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stillhouse.core.draws import seed_of
from stillhouse.io.pipelines.quiet import quiet
from stillhouse.worlds.shapes.world import Shapes
from tools.shapes_pipeline.codec import new_codec, train_codec
from tools.shapes_pipeline.denoiser import new_scheduler, new_unet, train_denoiser
from tools.shapes_pipeline.text import new_text, train_text


def new_pipeline(seed: int = 0) -> Any:
    """The untrained pipeline; the same for the same seed."""
    from diffusers import StableDiffusionPipeline

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("shapes pipeline", seed))
        tokenizer, encoder = new_text()
        return StableDiffusionPipeline(
            vae=new_codec(),
            text_encoder=encoder,
            tokenizer=tokenizer,
            unet=new_unet(),
            scheduler=new_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def make(work: Path, world: Shapes) -> Path:
    """Train the pipeline in ``work``, where what takes long is kept and not made twice; the folder of the
    trained one."""
    from diffusers import StableDiffusionPipeline

    start, trained = work / "start", work / "trained"
    if (trained / "model_index.json").is_file():
        return trained
    if not (start / "model_index.json").is_file():
        pipe = new_pipeline()
        train_codec(pipe.vae, world)
        named = train_text(pipe.tokenizer, pipe.text_encoder, world)
        print(f"text encoder: {named:.1%} of the held-out captions are named right", flush=True)
        pipe.save_pretrained(str(start), safe_serialization=True)
    pipe = StableDiffusionPipeline.from_pretrained(start, use_safetensors=True, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    train_denoiser(pipe, world, work / "denoiser.pt")
    pipe.save_pretrained(str(trained), safe_serialization=True)
    return trained
