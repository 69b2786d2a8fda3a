"""Discriminators that read a denoiser's own features of a noised sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.conditions import Condition
from stillhouse.denoiser import Denoiser
from stillhouse.errors import StillhouseError
from stillhouse.models.taps import until


def middle_of(denoiser: Denoiser) -> str:
    """The name, inside a denoiser, of the submodule that a critic reads."""
    middle = getattr(denoiser.net, "middle", "")
    if not middle:
        raise StillhouseError(
            f"A {type(denoiser.net).__name__} names no `middle` submodule for a critic to read; set that attribute or use no critic."
        )
    return f"net.{middle}"


def features(denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
    """The features of the middle block at ``(x_t, t)``; the rest of the network is not computed."""
    return until(denoiser.get_submodule(middle_of(denoiser)), lambda: denoiser(x_t, t, cond))


class Head(nn.Module):
    """Features to one logit a sample: images (B, C, H, W) through strided 4x4 convolutions down to 1x1, tokens (B, N, C) and
    vectors (B, C) through two layers (Yin et al., 2024, arXiv 2405.14867, appendix)."""

    def __init__(self, channels: int, side: int = 1):
        super().__init__()
        layers: list[nn.Module] = []
        while side > 1:
            layers += [nn.Conv2d(channels, channels, 4, 2, 1), nn.GroupNorm(math.gcd(8, channels), channels), nn.SiLU()]
            side //= 2
        self.down = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Logits (B,), positive for real."""
        if h.dim() == 4:
            h = self.down(h).mean((2, 3))
        elif h.dim() == 3:
            h = h.mean(1)
        return self.out(h).squeeze(1)


def head_for(denoiser: Denoiser, shape: tuple[int, ...]) -> Head:
    """A head that fits the features of ``denoiser`` on samples of ``shape``."""
    with torch.no_grad():
        device = next(denoiser.parameters()).device
        h = features(denoiser, torch.zeros(1, *shape, device=device), torch.full((1,), 0.5, device=device))
    return Head(h.shape[1] if h.dim() != 3 else h.shape[2], min(h.shape[-2:]) if h.dim() == 4 else 1)


def softplus_critic(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's non-saturating loss on logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def softplus_fool(fake: Tensor) -> Tensor:
    """The student's side of :func:`softplus_critic`."""
    return F.softplus(-fake).mean()


def hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """The critic's hinge loss on logits."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
