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
from stillhouse.io.pipelines.base import quiet
from stillhouse.io.pipelines.tiny_text import clip, gemma, t5
from stillhouse.io.pipelines.tiny_video import ltx, wan


def build(kind: str, folder: str | Path, seed: int = 0) -> Path:
    """A tiny pipeline of ``kind`` (see :data:`KINDS`), written to ``folder`` as safetensors; the same for the
    same seed."""
    if kind not in KINDS:
        raise unknown("tiny pipeline", kind, KINDS)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        KINDS[kind]().save_pretrained(str(folder), safe_serialization=True)
    return Path(folder)


def vae(channels: int = 4, factor: int = 8, **config: Any) -> Any:
    """An autoencoder of ``factor`` pixels to a latent's side."""
    from diffusers import AutoencoderKL

    blocks = factor.bit_length()
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=8 * factor,
        mid_block_add_attention=False,
        **config,
    )


def bare_vae(shift: float, scale: float) -> Any:
    """An autoencoder of the newer kind: latents are shifted, too, and there is no layer before and after
    them."""
    return vae(shift_factor=shift, scaling_factor=scale, use_quant_conv=False, use_post_quant_conv=False)


def unet(**config: Any) -> Any:
    """A text-conditional U-Net of latents 4 x 8 x 8."""
    from diffusers import UNet2DConditionModel

    fields: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
    }
    return UNet2DConditionModel(**{**fields, **config})


def _table(**config: Any) -> Any:
    from diffusers import DDIMScheduler

    fields = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    return DDIMScheduler(**{**fields, "steps_offset": 1, **config})


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
    return _sd(_table())


def sd2() -> Any:
    """Stable Diffusion 2.1: v prediction."""
    return _sd(_table(prediction_type="v_prediction"), use_linear_projection=True)


def sd2_zero() -> Any:
    """Stable Diffusion 2.x trained to zero terminal SNR."""
    return _sd(
        _table(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
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


def _flow(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def sd3() -> Any:
    """Stable Diffusion 3: a flow whose grid is shifted by 3."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer, encoder = clip(projection=True)
    tokenizer_2, encoder_2 = clip(projection=True, width=24)
    tokenizer_3, encoder_3 = t5()
    network = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=40,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=_flow(shift=3.0),
        vae=bare_vae(0.0609, 1.5305),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=encoder_3,
        tokenizer_3=tokenizer_3,
    )


def flux() -> Any:
    """Flux dev: guidance is an input, and the grid is shifted by the picture's size. Its default picture is
    large: open it at 64 x 64."""
    return _flux(True, use_dynamic_shifting=True, shift=3.0)


def flux_schnell() -> Any:
    """Flux schnell: without guidance, on an even grid."""
    return _flux(False, shift=1.0)


def _flux(guided: bool, **config: Any) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    tokenizer, encoder = clip()
    tokenizer_2, encoder_2 = t5()
    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        pooled_projection_dim=16,
        guidance_embeds=guided,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=_flow(**config),
        vae=bare_vae(0.1159, 0.3611),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=network,
    )


def _pixart(pipeline: str, side: int, scheduler: Any) -> Any:
    import diffusers

    tokenizer, encoder = t5()
    network = diffusers.PixArtTransformer2DModel(
        sample_size=side,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=12,
        num_attention_heads=2,
        cross_attention_dim=24,
        caption_channels=48,
    )
    return getattr(diffusers, pipeline)(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae(), transformer=network, scheduler=scheduler
    )


def pixart() -> Any:
    """PixArt-sigma, with a learned variance."""
    return _pixart("PixArtSigmaPipeline", 8, _table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"))


def pixart_alpha() -> Any:
    """PixArt-alpha at 1024 pixels, which takes the picture's size. Its default picture is large: open it at
    64 x 64."""
    return _pixart(
        "PixArtAlphaPipeline", 128, _table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    )


def sana() -> Any:
    """SANA: a flow with a shift of 3, two pixels to a latent's side, a language model for a text encoder."""
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    tokenizer, encoder = gemma()
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
    )
    blocks: dict[str, Any] = {"downsample_block_type": "conv", "upsample_block_type": "interpolate"}
    for half in ("encoder", "decoder"):
        blocks |= {
            f"{half}_block_types": ("ResBlock", "EfficientViTBlock"),
            f"{half}_block_out_channels": (8, 8),
        }
        blocks |= {f"{half}_layers_per_block": (1, 1), f"{half}_qkv_multiscales": ((), (5,))}
    autoencoder = AutoencoderDC(latent_channels=4, attention_head_dim=2, scaling_factor=0.41407, **blocks)
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=autoencoder,
        transformer=network,
        scheduler=_flow(shift=3.0),
    )


def dit() -> Any:
    """DiT: 1000 classes, with a learned variance."""
    from diffusers import DiTPipeline, DiTTransformer2DModel

    network = DiTTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
    )
    return DiTPipeline(
        transformer=network,
        vae=vae(),
        scheduler=_table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
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
        scheduler=_table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", set_alpha_to_one=True),
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
