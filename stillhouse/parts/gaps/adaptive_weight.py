"""Balancing losses by the gradients they leave on one layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def last_weight(net: nn.Module) -> Tensor:
    """The weight matrix or kernel closest to the output (the last registered one)."""
    return [p for p in net.parameters() if p.dim() > 1][-1]


def adaptive_weight(
    main: Tensor, other: Tensor, weight: Tensor, low: float = 0.0, high: float = 1e4
) -> Tensor:
    """``|grad main| / (|grad other| + 1e-4)`` on ``weight``, clamped, without gradient (Esser et al., 2020,
    arXiv 2012.09841, eq. 7).

    Arguments:
        main: the loss to which the other one is matched, a scalar with its graph.
        other: the loss that is to be weighed, a scalar with its graph.
        weight: the parameter that both gradients are taken at, see :func:`last_weight`.
        low: least value.
        high: largest value.

    Returns:
        The weight of ``other``, a scalar.
    """
    (g,) = torch.autograd.grad(main, weight, retain_graph=True)
    (h,) = torch.autograd.grad(other, weight, retain_graph=True)
    ratio: Tensor = (g.norm() / (h.norm() + 1e-4)).clamp(low, high)
    return ratio
