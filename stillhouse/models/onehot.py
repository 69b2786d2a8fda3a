"""A residual MLP that reads a short text as one long vector: the network of the chain world."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.embed import Embedding
from stillhouse.models.mlp import MLPBlock
from stillhouse.models.taps import Network


class OneHot(Network):
    """``net(x, t) -> logits (B, length, vocab)`` of tokens ``x`` (B, length), int64 in 0 … states - 1.

    The options that are not here are those of :class:`Embedding`.

    Arguments:
        vocab: tokens that are predicted.
        states: values that a token may have, ``vocab`` and one more for a mask.
        length: tokens of a text.
        width: of the residual stream.
        depth: number of ``blocks``.
        timed: the network is conditioned on the time, which masked tokens show by themselves.
    """

    name = "onehot"

    def __init__(
        self,
        vocab: int = 6,
        states: int = 7,
        length: int = 12,
        width: int = 128,
        depth: int = 2,
        timed: bool = False,
        classes: int = 0,
        two_time: bool = False,
        guidance_input: bool = False,
    ):
        super().__init__(locals())
        self.vocab, self.states, self.length, self.timed = vocab, states, length, timed
        self.middle, self.middle_channels = f"blocks.{depth // 2}", width
        self.embed = Embedding(width, classes, 0, two_time, guidance_input)
        self.input = nn.Linear(length * states, width)
        self.blocks = nn.ModuleList(MLPBlock(width, 0.0) for _ in range(depth))
        self.output = nn.Linear(width, length * vocab)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, length), ``t, s, guidance``: (B,) -> (B, length, vocab)."""
        require(
            x.shape[1:] == (self.length,),
            f"This network reads texts of {self.length} tokens, not of shape {tuple(x.shape[1:])}.",
        )
        vector, _, _ = self.embed(t if self.timed else t.new_zeros(1), cond, s, guidance)
        vector = F.silu(vector)
        h = self.input(F.one_hot(x, self.states).to(self.input.weight.dtype).flatten(1))
        for block in self.blocks:
            h = self.run(block, h, vector)
        logits: Tensor = self.output(F.silu(h)).unflatten(-1, (self.length, self.vocab))
        return logits
