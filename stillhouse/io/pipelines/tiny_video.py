"""Tiny pipelines of clips with random weights; see :mod:`stillhouse.io.pipelines.tiny`. Open them smaller
than their defaults."""

from __future__ import annotations

from typing import Any

from stillhouse.io.pipelines.tiny_parts import flow
from stillhouse.io.pipelines.tiny_text import t5


def wan() -> Any:
    """Wan 2.1: a flow whose grid is shifted by 3, with UniPC; 8 pixels and 4 frames to a latent's. Open
    it at 16 x 16, 5 frames."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    tokenizer, _ = t5()
    words = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    network = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    autoencoder = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.7, 0.1, 0.4, -0.2],
        latents_std=[2.8, 1.4, 2.3, 2.0],
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(words).eval(),
        vae=autoencoder,
        scheduler=scheduler,
        transformer=network,
    )


def ltx() -> Any:
    """LTX-Video: a flow whose grid is shifted by the clip's size; 32 pixels and 8 frames to a latent's. Open
    it at 64 x 64, 9 frames."""
    from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel

    tokenizer, encoder = t5(32)
    network = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    sizes: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": (1, 1, 1, 1, 1)}
    decoder = {f"decoder_{name}": size for name, size in sizes.items()}
    autoencoder = AutoencoderKLLTXVideo(latent_channels=8, scaling_factor=0.8, **sizes, **decoder)
    scheduler = flow(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        shift_terminal=0.1,
    )
    return LTXPipeline(
        scheduler=scheduler, vae=autoencoder, text_encoder=encoder, tokenizer=tokenizer, transformer=network
    )
