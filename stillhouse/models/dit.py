"""A small diffusion transformer with adaLN-zero (Peebles & Xie, 2022, arXiv 2212.09748)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.embed import Attention, Embedding, beside, zero
from stillhouse.models.taps import Network


def positions(height: int, width: int, dim: int, reference: Tensor) -> Tensor:
    """Sines and cosines of row and column.

    Arguments:
        height: rows.
        width: columns.
        dim: numbers of a place, divisible by 4.
        reference: a tensor whose dtype and device the result has.

    Returns:
        Embeddings row by row, (height * width, dim).
    """
    speed = 100.0 ** -torch.linspace(0, 1, dim // 4, device=reference.device)
    row = torch.arange(height, device=reference.device)[:, None, None] * speed
    column = torch.arange(width, device=reference.device)[None, :, None] * speed
    row, column = row.expand(height, width, -1), column.expand(height, width, -1)
    return torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], -1).flatten(0, 1).to(reference)


class DiTBlock(nn.Module):
    """Attention, cross-attention on tokens where there are any, and an MLP; scaled, shifted and gated by the
    vector."""

    def __init__(self, dim: int, heads: int, dropout: float, token_dim: int):
        super().__init__()
        self.modulation = zero(nn.Linear(dim, 6 * dim))
        self.attention = Attention(dim, heads)
        if token_dim:
            self.cross = Attention(dim, heads, token_dim)
            zero(self.cross.out)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )

    def forward(
        self, h: Tensor, vector: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """A step of the residual stream.

        Arguments:
            h: tokens of the image, (B, N, dim).
            vector: embedding of time and condition, (B, dim).
            tokens: of the condition, (B, L, token_dim); None: no cross-attention.
            mask: True where a token counts, (B, L); None: everywhere.

        Returns:
            Tokens of the image, (B, N, dim).
        """
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(vector)[:, None].chunk(6, -1)
        size = h.shape[-1:]
        h = h + gate1 * self.attention(F.layer_norm(h, size) * (1 + scale1) + shift1)
        if tokens is not None:
            h = h + self.cross(F.layer_norm(h, size), tokens, mask)
        out: Tensor = h + gate2 * self.mlp(F.layer_norm(h, size) * (1 + scale2) + shift2)
        return out


class DiT(Network):
    """``net(x, t, cond)`` for images ``x`` of shape (B, image_channels, H, W), of any size divisible by
    ``patch``.

    A block's output is a row of tokens, (B, HW / patch², dim). The options that are not here are those of
    :class:`Embedding`.

    Arguments:
        image_channels: of the state.
        patch: side of the square that becomes one token.
        dim: token width, divisible by 4.
        depth: number of ``blocks``.
        heads: of the attention.
        dropout: within the blocks' MLPs.
        image_cond: channels of an image ``cond["image"]`` that is concatenated to the state; 0: none.
    """

    name = "dit"

    def __init__(
        self,
        image_channels: int = 1,
        patch: int = 4,
        dim: int = 96,
        depth: int = 4,
        heads: int = 4,
        classes: int = 0,
        token_dim: int = 0,
        two_time: bool = False,
        guidance_input: bool = False,
        dropout: float = 0.0,
        features: int = 0,
        image_cond: int = 0,
    ):
        super().__init__(locals())
        require(dim % 4 == 0, f"A DiT's dim must be divisible by 4, not {dim}.")
        self.patch, self.middle, self.middle_channels = patch, f"blocks.{depth // 2}", dim
        self.embed = Embedding(dim, classes, token_dim, two_time, guidance_input, features)
        self.image_cond = image_cond
        self.input = nn.Linear((image_channels + image_cond) * patch**2, dim)
        self.blocks = nn.ModuleList(DiTBlock(dim, heads, dropout, token_dim) for _ in range(depth))
        self.modulation = zero(nn.Linear(dim, 2 * dim))
        self.output = zero(nn.Linear(dim, image_channels * patch**2))

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
        high, wide = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        require(
            (high * self.patch, wide * self.patch) == tuple(x.shape[-2:]),
            f"This DiT needs image sides divisible by {self.patch}, not {x.shape[-2]} x {x.shape[-1]}.",
        )
        vector, tokens, mask = self.embed(t, cond, s, guidance)
        vector = F.silu(vector)
        h = self.input(
            F.pixel_unshuffle(beside(x, cond, self.image_cond), self.patch).flatten(2).transpose(1, 2)
        )
        h = h + positions(high, wide, h.shape[-1], h)
        for block in self.blocks:
            h = self.run(block, h, vector, tokens, mask)
        scale, shift = self.modulation(vector)[:, None].chunk(2, -1)
        h = self.output(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(-1, (high, wide)), self.patch)
