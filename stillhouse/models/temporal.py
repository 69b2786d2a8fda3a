"""A small 1-D U-Net along time, for chunks of actions (Chi et al., 2023, arXiv 2303.04137; Janner et al.,
2022, arXiv 2205.09991)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.embed import Embedding, GroupNorm, zero
from stillhouse.models.taps import Network
from stillhouse.models.unet import groups


class TemporalBlock(nn.Module):
    """A residual block ``(h, vector) -> (B, out, H)``; the vector scales and shifts its inside (FiLM)."""

    def __init__(self, channels: int, out: int, width: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups(channels), channels), nn.Conv1d(channels, out, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * out)
        self.norm2, self.conv2 = GroupNorm(groups(out), out), zero(nn.Conv1d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv1d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        """A step of the network.

        Arguments:
            h: features along time, (B, channels, H).
            vector: embedding of time and condition, (B, width).

        Returns:
            Features, (B, out, H).
        """
        scale, shift = self.modulation(vector)[:, :, None].chunk(2, 1)
        inner = self.norm2(self.conv1(F.silu(self.norm1(h)))) * (1 + scale) + shift
        out: Tensor = self.skip(h) + self.conv2(self.dropout(F.silu(inner)))
        return out


class TemporalUNet(Network):
    """``net(x, t, cond)`` for chunks ``x`` of shape (B, horizon, actions).

    The options that are not here are those of :class:`Embedding`.

    Arguments:
        horizon: actions of a chunk, divisible by 2^(levels - 1).
        actions: numbers of an action.
        channels: width of each level, each half as long as the one before.
        features: length of the observation ``cond["features"]`` (B, features).
        dropout: within the blocks.
    """

    name = "temporal"
    middle = "mid"

    def __init__(
        self,
        horizon: int = 8,
        actions: int = 2,
        channels: Sequence[int] = (48, 96),
        features: int = 0,
        classes: int = 0,
        two_time: bool = False,
        guidance_input: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
        multiple, width = 2 ** (len(channels) - 1), 2 * max(channels)
        require(
            horizon % multiple == 0,
            f"{len(channels)} levels need a horizon divisible by {multiple}, not {horizon}.",
        )
        self.expected, self.middle_channels = (horizon, actions), channels[-1]
        self.embed = Embedding(width, classes, 0, two_time, guidance_input, features)
        self.input = nn.Conv1d(actions, channels[0], 3, padding=1)
        before = [channels[0], *channels[:-1]]
        self.down = nn.ModuleList(
            TemporalBlock(a, b, width, dropout) for a, b in zip(before, channels, strict=True)
        )
        self.mid = TemporalBlock(channels[-1], channels[-1], width, dropout)
        self.up = nn.ModuleList(
            TemporalBlock(2 * b, a, width, dropout)
            for a, b in reversed(list(zip(before, channels, strict=True)))
        )
        self.norm = GroupNorm(groups(channels[0]), channels[0])
        self.output = zero(nn.Conv1d(channels[0], actions, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, horizon, actions), ``t, s, guidance``: (B,) -> (B, horizon, actions)."""
        found = tuple(x.shape[1:])
        require(found == self.expected, f"This network is for chunks of shape {self.expected}, not {found}.")
        vector = F.silu(self.embed(t, cond, s, guidance)[0])
        h, kept = self.input(x.transpose(1, 2)), []
        for level, block in enumerate(self.down):
            h = self.run(block, F.avg_pool1d(h, 2) if level else h, vector)
            kept.append(h)
        h = self.run(self.mid, h, vector)
        for level, block in zip(reversed(range(len(self.up))), self.up, strict=True):
            h = self.run(block, torch.cat([h, kept.pop()], 1), vector)
            h = h.repeat_interleave(2, 2) if level else h
        out: Tensor = self.output(F.silu(self.norm(h))).transpose(1, 2)
        return out
