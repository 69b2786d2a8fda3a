"""A small bidirectional transformer over tokens: what a masked diffusion language model is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.embed import NumberEmbedding, zero
from stillhouse.models.taps import Network


def turns(length: int, dim: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, rates from 1 down to 1e-3 per place (Su et al., 2021, arXiv
    2104.09864).

    Arguments:
        length: places.
        dim: of an attention head, even.
        reference: a tensor whose dtype and device the results have.

    Returns:
        Two tensors, (length, dim / 2).
    """
    rate = 1e3 ** -torch.linspace(0, 1, dim // 2, device=reference.device)
    angle = torch.arange(length, device=reference.device)[:, None] * rate
    return angle.cos().to(reference), angle.sin().to(reference)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of the two halves turned by the angle of its place.

    Arguments:
        x: queries or keys, (…, length, dim).
        cos: as :func:`turns` gives them, (length, dim / 2).
        sin: likewise.

    Returns:
        (…, length, dim).
    """
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Near(nn.Module):
    """Each channel's own weighted sum of a place and its two neighbours on either side (depthwise; So et al.,
    2021, arXiv 2109.08668).

    Spelling is local: attention alone needs long to find out which places are near.
    """

    def __init__(self, dim: int, reach: int = 2):
        super().__init__()
        self.reach, self.weight = reach, nn.Parameter(0.2 * torch.randn(2 * reach + 1, dim))

    def forward(self, h: Tensor) -> Tensor:
        """``h``: (B, L, dim) -> (B, L, dim)."""
        length, wide = h.shape[1], F.pad(h, (0, 0, self.reach, self.reach))
        return sum(
            (wide[:, k : k + length] * weight for k, weight in enumerate(self.weight)), torch.zeros_like(h)
        )


class TokenBlock(nn.Module):
    """Neighbours, attention on the whole text, then an MLP, each on the normalised state and added to it."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.near = Near(dim)
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """A step of the residual stream.

        Arguments:
            h: (B, L, dim).
            cos: rotary positions of a head, (L, dim / heads / 2), see :func:`turns`.
            sin: likewise.

        Returns:
            (B, L, dim).
        """
        h = h + self.near(self.norms[0](h))
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in self.query_key_value(self.norms[1](h)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(turned(q, cos, sin), turned(k, cos, sin), v)
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = h + self.mlp(self.norms[2](h))
        return out


class TokenTransformer(Network):
    """``net(x, t, cond) -> logits (B, L, vocab)`` for tokens ``x`` (B, L), int64 in 0 … vocab, the last of
    them the mask. It takes no condition.

    Arguments:
        vocab: tokens without the mask, at least 2.
        length: of the longest text.
        dim: width of the residual stream.
        depth: number of ``blocks``.
        heads: of the attention, each of an even width.
        timed: the network is conditioned on the time, which a masked process does without (the number of
            masks shows it).
        dropout: within the blocks' MLPs.
    """

    name = "token_transformer"

    def __init__(
        self,
        vocab: int,
        length: int = 64,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        timed: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__(locals())
        require(vocab >= 2, f"A vocabulary holds at least two tokens, not {vocab}.")
        require(
            dim % (2 * heads) == 0,
            f"A width of {dim} can't be split among {heads} attention heads of an even size.",
        )
        self.vocab, self.length, self.head = vocab, length, dim // heads
        self.middle, self.middle_channels = f"blocks.{depth // 2}", dim
        self.words = nn.Embedding(vocab + 1, dim)
        nn.init.normal_(self.words.weight, std=0.5)
        self.time = NumberEmbedding(dim, silent=True) if timed else None
        self.blocks = nn.ModuleList(TokenBlock(dim, heads, dropout) for _ in range(depth))
        self.norm, self.output = nn.LayerNorm(dim), zero(nn.Linear(dim, vocab))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, L) int64, ``t``: (B,) -> (B, L, vocab)."""
        require(
            cond is None and s is None and guidance is None,
            "This network of tokens takes no condition, second time or guidance scale.",
        )
        require(
            x.dim() == 2 and x.shape[1] <= self.length,
            f"This network reads texts of up to {self.length} tokens, not {tuple(x.shape[1:])}.",
        )
        h = self.words(x)
        if self.time is not None:
            h = h + self.time(t)[:, None]
        cos, sin = turns(x.shape[1], self.head, h)
        for block in self.blocks:
            h = self.run(block, h, cos, sin)
        logits: Tensor = self.output(self.norm(h))
        return logits
