"""How a gap is measured."""

from __future__ import annotations

import math

from torch import Tensor


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of each sample.

    Arguments:
        a: samples, (B, *shape).
        b: what they are compared with, (B, *shape).

    Returns:
        Distances, (B,).
    """
    return (a - b).square().flatten(1).mean(1)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """``sqrt(|a - b|^2 + c^2) - c`` with ``c = 0.00054 sqrt(dim)``, of each sample's norm (Song & Dhariwal,
    2023, arXiv 2310.14189, eq. 8).

    Arguments:
        a: samples, (B, *shape).
        b: what they are compared with, (B, *shape).

    Returns:
        Distances, (B,).
    """
    gap = (a - b).flatten(1)
    c = 0.00054 * math.sqrt(gap.shape[1])
    return (gap.square().sum(1) + c**2).sqrt() - c


def absolute(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of each sample.

    Arguments:
        a: samples, (B, *shape).
        b: what they are compared with, (B, *shape).

    Returns:
        Distances, (B,).
    """
    return (a - b).abs().flatten(1).mean(1)


def elementwise_huber(a: Tensor, b: Tensor, width: float = 1e-3) -> Tensor:
    """``sqrt((a - b)^2 + width^2) - width`` of each element, its mean over each sample.

    Arguments:
        a: samples, (B, *shape).
        b: what they are compared with, (B, *shape).
        width: the difference around which the square turns into the absolute value.

    Returns:
        Distances, (B,).
    """
    return ((a - b).square() + width**2).sqrt().sub(width).flatten(1).mean(1)


# by the names of a method's option; `huber` is of a whole sample's norm, and for latents of each element
DISTANCES = {"l2": squared, "huber": pseudo_huber, "l1": absolute}
LATENT_DISTANCES = {"huber": elementwise_huber, "l2": squared}
