"""A small U-Net in the manner of EDM's (Karras et al., 2022, arXiv 2206.00364; Dhariwal & Nichol, 2021, arXiv
2105.05233)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.embed import Attention, Embedding, GroupNorm, beside, zero
from stillhouse.models.taps import Network


def groups(channels: int) -> int:
    """The largest number of groups up to 8 that divides ``channels`` into groups of at least 4."""
    return next((g for g in (8, 6, 4, 3, 2) if channels % g == 0 and channels // g >= 4), 1)


class Block(nn.Module):
    """A residual block; the vector scales and shifts its inside.

    Arguments:
        channels: of the input.
        out: channels of the output.
        width: of the vector.
        dropout: before the last convolution.
        resample: ``up``, ``down`` or empty.
    """

    def __init__(self, channels: int, out: int, width: int, dropout: float, resample: str = ""):
        super().__init__()
        self.resample = resample
        self.norm1, self.conv1 = GroupNorm(groups(channels), channels), nn.Conv2d(channels, out, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * out)
        self.norm2, self.conv2 = GroupNorm(groups(out), out), zero(nn.Conv2d(out, out, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def _sized(self, h: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(h, 2)
        return F.interpolate(h, scale_factor=2, mode="nearest") if self.resample == "up" else h

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        """A step of the network.

        Arguments:
            h: features, (B, channels, H, W).
            vector: embedding of time and condition, (B, width).

        Returns:
            Features, (B, out, H, W); twice or half as large where the block resamples.
        """
        inner = self.conv1(self._sized(F.silu(self.norm1(h))))
        scale, shift = self.modulation(vector)[:, :, None, None].chunk(2, 1)
        inner = self.norm2(inner) * (1 + scale) + shift
        inner = self.conv2(self.dropout(F.silu(inner)))
        # a 1x1 convolution commutes with pooling and with repeating: do each where the image is smaller
        straight = self.skip(self._sized(h)) if self.resample == "down" else self._sized(self.skip(h))
        out: Tensor = straight + inner
        return out


class Attend(nn.Module):
    """Attention of ``h`` (B, channels, H, W) on itself, then on tokens where there are any; it starts without
    effect."""

    def __init__(self, channels: int, heads: int, token_dim: int):
        super().__init__()
        self._attend(channels, heads, token_dim)

    def _attend(self, channels: int, heads: int, token_dim: int) -> None:
        self.norm, self.attention = GroupNorm(groups(channels), channels), Attention(channels, heads)
        if token_dim:
            self.cross_norm, self.cross = (
                GroupNorm(groups(channels), channels),
                Attention(channels, heads, token_dim),
            )
            zero(self.cross.out)
        zero(self.attention.out)

    def forward(self, h: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """A step of the network.

        Arguments:
            h: features, (B, channels, H, W).
            tokens: of the condition, (B, L, token_dim); None: no cross-attention.
            mask: True where a token counts, (B, L); None: everywhere.

        Returns:
            Features, (B, channels, H, W).
        """
        h = h + self._image(self.attention(self._rows(self.norm(h))), h)
        if tokens is not None:
            h = h + self._image(self.cross(self._rows(self.cross_norm(h)), tokens, mask), h)
        return h

    @staticmethod
    def _rows(h: Tensor) -> Tensor:
        return h.flatten(2).transpose(1, 2)

    @staticmethod
    def _image(rows: Tensor, h: Tensor) -> Tensor:
        return rows.transpose(1, 2).reshape(h.shape)


class Middle(Attend):
    """The lowest level: block, attention on itself, cross-attention on tokens where there are any, block."""

    def __init__(self, channels: int, width: int, dropout: float, heads: int, token_dim: int):
        nn.Module.__init__(
            self
        )  # the parts are made in their order of use: the first weights follow from a seed
        self.first = Block(channels, channels, width, dropout)
        self._attend(channels, heads, token_dim)
        self.last = Block(channels, channels, width, dropout)

    def forward(  # type: ignore[override]
        self, h: Tensor, vector: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """A step of the network.

        Arguments:
            h: features, (B, channels, H, W).
            vector: embedding of time and condition, (B, width).
            tokens: of the condition, (B, L, token_dim); None: no cross-attention.
            mask: True where a token counts, (B, L); None: everywhere.

        Returns:
            Features, (B, channels, H, W).
        """
        out: Tensor = self.last(super().forward(self.first(h, vector), tokens, mask), vector)
        return out


class UNet(Network):
    """``net(x, t, cond)`` for images ``x`` of shape (B, image_channels, H, W).

    Submodules by name: ``down.i`` and ``up.i`` (residual blocks in order of execution), ``attend.down_i`` and
    ``attend.up_i`` (their attention), ``mid``, whose output has ``mid_channels`` channels at the lowest
    level. The options that are not here are those of :class:`Embedding`.

    Arguments:
        image_channels: of the state.
        channels: width of each level, each half as large as the one before; H and W must be divisible by
            ``patch * 2^(levels - 1)``.
        patch: the image is folded into ``patch²`` times the channels before anything else.
        blocks: residual blocks per level.
        heads: of the attention.
        dropout: within the blocks.
        attention: how many of the lowest levels attend after each block on the way down and before each one
            on the way up, beside the middle.
        image_cond: channels of an image of the same size that is concatenated to the state, ``cond["image"]``
            (B, image_cond, H, W), all zeros where there is none.
    """

    name = "unet"
    middle = "mid"

    def __init__(
        self,
        image_channels: int = 1,
        channels: Sequence[int] = (32, 64, 96),
        patch: int = 2,
        blocks: int = 1,
        heads: int = 4,
        classes: int = 0,
        token_dim: int = 0,
        two_time: bool = False,
        guidance_input: bool = False,
        dropout: float = 0.0,
        attention: int = 0,
        features: int = 0,
        image_cond: int = 0,
    ):
        super().__init__(locals())
        require(
            0 <= attention <= len(channels),
            f"A U-Net of {len(channels)} levels can't have attention at {attention}.",
        )
        width = 2 * max(channels)
        self.patch, self.multiple = patch, patch * 2 ** (len(channels) - 1)
        self.mid_channels = self.middle_channels = channels[-1]
        self.embed = Embedding(width, classes, token_dim, two_time, guidance_input, features)
        self.image_cond = image_cond
        self.input = nn.Conv2d((image_channels + image_cond) * patch**2, channels[0], 3, padding=1)
        self.down, self.up, self.attend = nn.ModuleList(), nn.ModuleList(), nn.ModuleDict()
        here, skips = channels[0], [channels[0]]
        for level, wide in enumerate(channels):
            for i in range(blocks):
                self.down.append(Block(here, wide, width, dropout, "down" if level and not i else ""))
                here = wide
                skips.append(here)
                if level >= len(channels) - attention:
                    self.attend[f"down_{len(self.down) - 1}"] = Attend(here, heads, token_dim)
        self.mid = Middle(here, width, dropout, heads, token_dim)
        # one block answers each kept feature; the last of a level (its feature came from the level above)
        # goes up
        for level, wide in reversed(list(enumerate(channels))):
            for i in range(blocks):
                if level >= len(channels) - attention:
                    self.attend[f"up_{len(self.up)}"] = Attend(here, heads, token_dim)
                last = level and i == blocks - 1
                self.up.append(
                    Block(
                        here + skips.pop(),
                        channels[level - 1] if last else wide,
                        width,
                        dropout,
                        "up" if last else "",
                    )
                )
                here = channels[level - 1] if last else wide
        self.norm = GroupNorm(groups(here + skips[0]), here + skips.pop())
        self.output = zero(nn.Conv2d(here + channels[0], image_channels * patch**2, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, C, H, W), ``t, s, guidance``: (B,) -> (B, C, H, W)."""
        require(
            x.shape[-2] % self.multiple == 0 and x.shape[-1] % self.multiple == 0,
            f"This U-Net needs image sides divisible by {self.multiple}, not {x.shape[-2]} x {x.shape[-1]}.",
        )
        vector, tokens, mask = self.embed(t, cond, s, guidance)
        vector = F.silu(vector)
        h = self.input(F.pixel_unshuffle(beside(x, cond, self.image_cond), self.patch))
        kept = [h]
        for i, block in enumerate(self.down):
            h = self._attended(f"down_{i}", self.run(block, h, vector), tokens, mask)
            kept.append(h)
        h = self.run(self.mid, h, vector, tokens, mask)
        for i, block in enumerate(self.up):
            h = self._attended(f"up_{i}", h, tokens, mask)
            h = self.run(block, torch.cat([h, kept.pop()], 1), vector)
        h = self.output(F.silu(self.norm(torch.cat([h, kept.pop()], 1))))
        return F.pixel_shuffle(h, self.patch)

    def _attended(self, place: str, h: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        return self.run(self.attend[place], h, tokens, mask) if place in self.attend else h
