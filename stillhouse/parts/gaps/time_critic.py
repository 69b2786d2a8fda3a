"""A discriminator that takes the noise level of its samples: heads on the teacher's encoder, conditioned on
the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.bridge import Bridge
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.models.embed import Fourier, GroupNorm, zero
from stillhouse.models.unet import groups
from stillhouse.parts.gaps.critic import channel_of, encoder_of, features_at

TIME_FEATURES = 32
SQUARINGS = 5  # of the Gram matrix: the power method's 32 steps


class SpectralConv1d(nn.Conv1d):
    """A convolution whose weight is divided by its largest singular value (Miyato et al., 2018, arXiv
    1802.05957).

    The singular vector is found anew in each call by powers of the Gram matrix, so that there is no state
    that a stop could lose.
    """

    def forward(self, h: Tensor) -> Tensor:
        weight = self.weight.flatten(1)
        with torch.no_grad():
            gram = weight @ weight.T
            for _ in range(SQUARINGS):
                gram = gram / gram.diagonal().sum().clamp_min(1e-12)
                gram = gram @ gram
            # the longest column is the surest not to be at right angles with the singular vector
            left = F.normalize(gram[:, gram.square().sum(0).argmax()], dim=0)
        return F.conv1d(
            h, self.weight / (left @ weight).norm().clamp_min(1e-12), self.bias, padding=self.padding
        )


class Step(nn.Sequential):
    """Spectrally normalised convolution, group norm, leaky ReLU."""

    def __init__(self, channels: int, kernel: int):
        norm = nn.GroupNorm(4 if channels % 4 == 0 else 1, channels)
        super().__init__(
            SpectralConv1d(channels, channels, kernel, padding=kernel // 2), norm, nn.LeakyReLU(0.2)
        )


class TimedHead(nn.Module):
    """Features (B, C, H, W), (B, N, C) or (B, C) to ``maps`` logits at each place, conditioned on the time.

    The features pass a residual branch, whose last convolution starts at zero: group norm, scale and shift by
    a linear map of the time's Fourier features, SiLU, convolution. Then the head of Sauer et al., 2023 (arXiv
    2301.09515): a step of kernel 1, a residual one of kernel 9, a convolution to ``maps``. ``timed=False``
    leaves the time out.
    """

    def __init__(self, channels: int, maps: int, timed: bool = True):
        super().__init__()
        self.norm, self.time = GroupNorm(groups(channels), channels), Fourier(TIME_FEATURES)
        self.film = nn.Linear(TIME_FEATURES, 2 * channels) if timed else None
        self.mix = zero(nn.Conv2d(channels, channels, 3, padding=1))
        self.first, self.second = Step(channels, 1), Step(channels, 9)
        self.out = SpectralConv1d(channels, maps, 1)

    def forward(self, h: Tensor, t: Tensor) -> Tensor:
        """Logits of one block's features.

        Arguments:
            h: features, (B, C, H, W), (B, N, C) or (B, C).
            t: times in [0, 1], (B,); not read by a head that is not timed.

        Returns:
            Logits (B, maps, places), positive for real.
        """
        h = h.movedim(channel_of(h), 1)
        h = h.reshape(*h.shape, *[1] * (4 - h.dim()))
        inner = self.norm(h)
        if self.film is not None:
            scale, shift = self.film(self.time(t).to(h.dtype))[:, :, None, None].chunk(2, 1)
            inner = inner * (1 + scale) + shift
        h = self.first((h + self.mix(F.silu(inner))).flatten(2))
        logits: Tensor = self.out((h + self.second(h)) / 2**0.5)
        return logits


class TimedCritic(nn.Module):
    """A :class:`TimedHead` on each block of a frozen denoiser's encoder, on samples of ``shape``.

    The denoiser is no part of it: :meth:`forward` is given it, and its gradient passes through.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, denoiser: Denoiser, shape: Sequence[int], maps: int, timed: bool = True):
        super().__init__()
        self.blocks = encoder_of(denoiser)
        device = next(denoiser.net.parameters()).device
        x, t = torch.zeros(1, *shape, device=device), torch.full((1,), 0.5, device=device)
        own = denoiser.empty is None and isinstance(denoiser.process, Bridge)
        cond = {"image": x} if own else None
        with torch.no_grad():
            seen = features_at(denoiser, self.blocks, x, t, cond)
        self.heads = nn.ModuleList(TimedHead(h.shape[channel_of(h)], maps, timed) for h in seen)

    def forward(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
        """All logits of noised samples.

        Arguments:
            denoiser: whose encoder is read, as at the critic's making.
            x_t: states, (B, *shape).
            t: times in [0, 1], (B,).
            cond: the condition of the B rows; None for none.

        Returns:
            Logits of all blocks, maps and places, (B, logits), positive for real.
        """
        seen = features_at(denoiser, self.blocks, x_t, t, cond)
        return torch.cat([head(h, t).flatten(1) for head, h in zip(self.heads, seen, strict=True)], 1)
