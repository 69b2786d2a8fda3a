"""How far two predictions of tokens lie apart."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.process import Process

DIVERGENCES = ("reverse_kl", "forward_kl", "absolute", "squared")
FLOOR = -30.0  # a target's logarithm of "never"


def divergence(name: str, pred: Tensor, target: Tensor) -> Tensor:
    """How far predicted log-probabilities of tokens lie from a fixed target.

    ``reverse_kl``: ``sum D (log D - g)``, whose best answer to several targets is their normalised geometric
    mean; ``forward_kl``: ``sum e^g (g - log D)``, whose best answer is their mean; ``absolute`` and
    ``squared``: of the logarithms' differences, summed. Targets below ``e^-30`` count as that.

    Arguments:
        name: one of :data:`DIVERGENCES`.
        pred: log-probabilities ``log D``, (…, V).
        target: log-probabilities ``g``, (…, V).

    Returns:
        One number for each position, (…).
    """
    target = target.clamp_min(FLOOR)
    gap = pred - target
    if name == "reverse_kl":
        return (pred.exp() * gap).sum(-1)
    if name == "forward_kl":
        return -(target.exp() * gap).sum(-1)
    return gap.abs().sum(-1) if name == "absolute" else gap.square().sum(-1)


def over_replaced(process: Process, values: Tensor, rows: int, length: int) -> Tensor:
    """The sum of ``values`` over the number of replaced tokens that uniform times lead one to expect.

    A batch's own number would weigh the parts of an accumulated batch unevenly, whose times lie apart.

    Arguments:
        process: of tokens; ``sigma`` is the share of replaced ones.
        values: one for each replaced token, any shape.
        rows: texts in the batch.
        length: tokens of a text.

    Returns:
        A scalar.
    """
    times = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    return values.sum() / (rows * length * float(process.sigma(times).mean()))
