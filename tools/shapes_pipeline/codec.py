"""The autoencoder of the shipped pipeline: 8 x 8 latents of eight channels, each of mean 0 and variance 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stillhouse.core.draws import Draws
from stillhouse.metrics.reader import load_reader, prompt_fidelity
from stillhouse.worlds.shapes.world import Shapes

# steps, renders each, weight of the squared error: edges first, then the colours that a median gives up
ROUNDS = ((1500, 8, 0.0), (600, 12, 4.0))
RATE = 1.5e-3
FROZEN = 0.15  # the last share of a round, in which the decoder learns alone
KL = 1e-4  # weight of the Kullback-Leibler term
RENDERS = 1000  # that standardise the latents, or measure the autoencoder


def new_codec() -> Any:
    """The untrained autoencoder; every residual block starts as the identity."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        latent_channels=8,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    zero(vae, "conv2")
    return vae


def zero(net: Any, *names: str) -> None:
    """Set to zero the layers of ``net`` whose names end in one of ``names``: the branches they close begin as
    nothing (Goyal et al., 2017, arXiv 1706.02677, section 5.1, of residual branches)."""
    for name, layer in net.named_modules():
        if name.endswith(names):
            for weight in layer.parameters():
                nn.init.zeros_(weight)


def train_codec(vae: Any, world: Shapes, rounds: Sequence[tuple[int, int, float]] = ROUNDS) -> None:
    """Train the autoencoder on endless renders in rounds of a rate that rises and falls, and standardise its
    latents after each."""
    for number, (steps, batch, squared) in enumerate(rounds):
        _round(vae, world, f"shapes codec {number}" if number else "shapes codec", steps, batch, squared)
        standardise(vae, world.sample_data(RENDERS, Draws(RENDERS, "shapes codec", "standard"))[0])


def _round(vae: Any, world: Shapes, name: str, steps: int, batch: int, squared: float) -> None:
    """L1 of the picture and of its differences to the right and downwards, which keep edges sharp, its
    squared error, and a faint Kullback-Leibler term per latent number (Rombach et al., 2021, arXiv
    2112.10752, section 3.1; without the discriminator and the perceptual loss: these pictures have no
    texture)."""
    vae.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(vae.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        if step >= (1 - FROZEN) * steps:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        draws = Draws(batch, name, step)
        images, _ = world.sample_data(batch, draws)
        pred = vae.encode(images).latent_dist
        z = pred.mean + pred.std * draws.normal(*pred.mean.shape[1:])
        kl = 0.5 * (pred.mean**2 + pred.var - 1 - pred.logvar).mean()
        error = vae.decode(z).sample - images
        loss = error.abs().mean() + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        optimiser.zero_grad()
        (loss + squared * error.square().mean() + KL * kl).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        rate.step()
        if step % 100 == 0:
            squares = float(error.detach().square().mean())
            print(
                f"{name} {step}/{steps}: {loss.item():.4f}, {10 * math.log10(4 / squares):.1f} dB", flush=True
            )
    vae.eval().requires_grad_(False)


@torch.no_grad()
def standardise(vae: Any, images: torch.Tensor) -> None:
    """Fold mean and deviation of each latent channel over ``images`` into the convolutions on both sides of
    the latents: pictures pass as before, latents have mean 0 and variance 1."""
    z = torch.cat([vae.encode(some).latent_dist.mode() for some in images.split(100)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    before, after, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.weight[:n] /= std[:, None, None, None]
    before.bias[:n] = (before.bias[:n] - mean) / std
    before.bias[n:] -= 2 * std.log()
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std[:, None, None]


@torch.no_grad()
def codec_quality(vae: Any, world: Shapes, n: int = RENDERS) -> dict[str, float]:
    """PSNR in decibels of ``n`` fresh renders through the autoencoder and back, and the shares of them whose
    parts the caption reader still reads right."""
    images, ids = world.sample_data(n, Draws(n, "shapes codec", "quality"))
    again = torch.cat([vae.decode(vae.encode(some).latent_dist.mode()).sample for some in images.split(100)])
    error = float(((again.clamp(-1, 1) - images) ** 2).mean())
    return {"psnr": 10 * math.log10(4 / error), **prompt_fidelity(load_reader(), again, ids)}


@torch.no_grad()
def encoded(vae: Any, world: Shapes, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``n`` renders of training captions as latents, (n, 8, 8, 8), with the numbers of their captions,
    (n,)."""
    latents, ids = [], []
    for start in range(0, n, 500):
        images, labels = world.sample_data(500, Draws(500, "shapes pipeline", "pictures", start))
        latents.append(vae.encode(images).latent_dist.mode())
        ids.append(labels)
    return torch.cat(latents)[:n], torch.cat(ids)[:n]
