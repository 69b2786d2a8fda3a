"""Tiny pipelines of pictures whose network is a transformer, with random weights; see
:mod:`stillhouse.io.pipelines.tiny`."""

from __future__ import annotations

from typing import Any

from stillhouse.io.pipelines.tiny_parts import bare_vae, flow, table, vae
from stillhouse.io.pipelines.tiny_text import clip, gemma, t5


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
        scheduler=flow(shift=3.0),
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
        scheduler=flow(**config),
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
    return _pixart("PixArtSigmaPipeline", 8, table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"))


def pixart_alpha() -> Any:
    """PixArt-alpha at 1024 pixels, which is conditioned on the picture's size. Its default picture is large:
    open it at 64 x 64."""
    return _pixart(
        "PixArtAlphaPipeline", 128, table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
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
        scheduler=flow(shift=3.0),
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
        scheduler=table(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )
