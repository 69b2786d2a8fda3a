"""What tiny pipelines are made of, with random weights: autoencoders, U-Nets and schedulers."""

from __future__ import annotations

from typing import Any


def vae(channels: int = 4, factor: int = 8, **config: Any) -> Any:
    """An autoencoder of pictures.

    Arguments:
        channels: of a latent.
        factor: pixels to a latent's side, a power of 2.
        config: further options of ``AutoencoderKL``.

    Returns:
        The autoencoder.
    """
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
    """An autoencoder of the newer kind, without a layer before and after the latents.

    Arguments:
        shift: taken from the raw latents.
        scale: that they are multiplied by then.

    Returns:
        Diffusers' ``AutoencoderKL``, with random weights.
    """
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


def table(**config: Any) -> Any:
    from diffusers import DDIMScheduler

    fields = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
    }
    return DDIMScheduler(**{**fields, "steps_offset": 1, **config})


def flow(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)
