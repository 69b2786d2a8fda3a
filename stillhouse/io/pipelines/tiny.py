"""Tiny pipelines with random weights, for tests, examples and documentation: real classes and configurations,
nothing downloaded.

``build("sdxl", folder)`` writes a Diffusers folder that opens like the real thing, with a few ten thousand
weights a network and a vocabulary of our own. Its pictures are noise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stillhouse.core.errors import unknown
from stillhouse.io.pipelines.quiet import quiet
from stillhouse.io.pipelines.tiny_parts import table, unet, vae
from stillhouse.io.pipelines.tiny_text import clip
from stillhouse.io.pipelines.tiny_transformer import dit, flux, flux_schnell, pixart, pixart_alpha, sana, sd3
from stillhouse.io.pipelines.tiny_video import ltx, wan


def build(kind: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a tiny pipeline as safetensors.

    Arguments:
        kind: of :data:`KINDS`.
        folder: to write.
        seed: of its weights.

    Returns:
        The folder.
    """
    if kind not in KINDS:
        raise unknown("tiny pipeline", kind, KINDS)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        KINDS[kind]().save_pretrained(str(folder), safe_serialization=True)
    return Path(folder)


def _sd(scheduler: Any, **config: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    tokenizer, encoder = clip()
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet(**config),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd() -> Any:
    """Stable Diffusion 1.x: noise prediction, the table's leading steps."""
    return _sd(table())


def sd2() -> Any:
    """Stable Diffusion 2.1: v prediction."""
    return _sd(table(prediction_type="v_prediction"), use_linear_projection=True)


def sd2_zero() -> Any:
    """Stable Diffusion 2.x trained to zero terminal SNR."""
    return _sd(
        table(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        use_linear_projection=True,
    )


def _sdxl(scheduler: Any, autoencoder: Any = None) -> Any:
    from diffusers import StableDiffusionXLPipeline

    tokenizer, encoder = clip()
    tokenizer_2, encoder_2 = clip(projection=True, width=24)
    network = unet(
        cross_attention_dim=40,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
        transformer_layers_per_block=1,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder or vae(scaling_factor=0.13025),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        unet=network,
        scheduler=scheduler,
        add_watermarker=False,
    )


def sdxl() -> Any:
    """Stable Diffusion XL with its own Euler scheduler."""
    from diffusers import EulerDiscreteScheduler

    return _sdxl(
        EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        )
    )


def _pixel_unet() -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def ddpm() -> Any:
    """A U-Net of pixels 3 x 16 x 16, on the linear table."""
    from diffusers import DDIMPipeline

    return DDIMPipeline(
        unet=_pixel_unet(),
        scheduler=table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", set_alpha_to_one=True),
    )


def edm() -> Any:
    """A U-Net of pixels 3 x 16 x 16, preconditioned as EDM's."""
    from diffusers import DDPMPipeline, EDMEulerScheduler

    return DDPMPipeline(unet=_pixel_unet(), scheduler=EDMEulerScheduler())


def sdxl_edm() -> Any:
    """An SDXL preconditioned as EDM's, with a mean and a deviation per latent channel (as Playground 2.5)."""
    from diffusers import EDMEulerScheduler

    moments: dict[str, Any] = {
        "latents_mean": [-1.6, 1.0, 0.2, -0.8],
        "latents_std": [8.4, 5.9, 5.1, 5.3],
        "scaling_factor": 0.5,
    }
    return _sdxl(EDMEulerScheduler(), vae(**moments))


KINDS: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        sd,
        sd2,
        sd2_zero,
        sdxl,
        sdxl_edm,
        sd3,
        flux,
        flux_schnell,
        pixart,
        pixart_alpha,
        sana,
        dit,
        ddpm,
        edm,
        wan,
        ltx,
    )
}
