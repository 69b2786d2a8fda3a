"""A residual MLP for points of any dimension."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.embed import Attention, Embedding, beside, zero
from stillhouse.models.taps import Network


class MLPBlock(nn.Module):
    """``h + W2 silu(W1 silu(h) + A e)``, the last layer starting at zero; before it cross-attention on tokens
    where there are any."""

    def __init__(self, width: int, dropout: float, token_dim: int = 0, heads: int = 4):
        super().__init__()
        self.first, self.modulation = nn.Linear(width, width), nn.Linear(width, width)
        self.last = zero(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)
        if token_dim:
            self.cross = Attention(width, heads, token_dim)
            zero(self.cross.out)

    def forward(
        self, h: Tensor, vector: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """A step of the residual stream.

        Arguments:
            h: (B, width).
            vector: embedding of time and condition, (B, width).
            tokens: of the condition, (B, L, token_dim); None: no cross-attention.
            mask: True where a token counts, (B, L); None: everywhere.

        Returns:
            (B, width).
        """
        if tokens is not None:
            h = h + self.cross(F.layer_norm(h, h.shape[-1:])[:, None], tokens, mask)[:, 0]
        inner = self.first(F.silu(h)) + self.modulation(vector)
        out: Tensor = h + self.last(self.dropout(F.silu(inner)))
        return out


class MLP(Network):
    """``net(x, t, cond)`` for ``x`` of shape (B, …) with ``dim`` numbers per sample.

    The options that are not here are those of :class:`Embedding`.

    Arguments:
        dim: numbers of a sample.
        width: of the residual stream.
        depth: number of ``blocks``.
        dropout: within the blocks.
        heads: of the cross-attention that each block has where ``token_dim`` is given; the point is its one
            query.
        image_cond: how many numbers ``cond["image"]`` has, the degraded point of a bridge, which is
            concatenated to the state; 0: none.
    """

    name = "mlp"

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        classes: int = 0,
        two_time: bool = False,
        guidance_input: bool = False,
        dropout: float = 0.0,
        token_dim: int = 0,
        heads: int = 4,
        features: int = 0,
        image_cond: int = 0,
    ):
        super().__init__(locals())
        self.dim, self.middle, self.middle_channels = dim, f"blocks.{depth // 2}", width
        self.embed = Embedding(width, classes, token_dim, two_time, guidance_input, features)
        self.image_cond = image_cond
        self.input = nn.Linear(dim + image_cond, width)
        self.blocks = nn.ModuleList(MLPBlock(width, dropout, token_dim, heads) for _ in range(depth))
        self.output = nn.Linear(width, dim)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, …), ``t, s, guidance``: (B,) -> (B, …)."""
        size = math.prod(x.shape[1:])
        require(
            size == self.dim,
            f"This MLP is for samples of {self.dim} numbers, not of {size} (shape {tuple(x.shape[1:])}).",
        )
        vector, tokens, mask = self.embed(t, cond, s, guidance)
        vector = F.silu(vector)
        points = torch.flatten(x, 1)
        if isinstance(cond, dict) and "image" in cond:
            cond = {**cond, "image": torch.flatten(cond["image"], 1)}
        h = self.input(beside(points, cond, self.image_cond))
        for block in self.blocks:
            h = self.run(block, h, vector, tokens, mask)
        out: Tensor = self.output(F.silu(h)).reshape(x.shape)
        return out
