"""Denoising, as a loss of any network on any process."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.prediction import At

Weight = Callable[[At], Tensor]


def denoising_loss(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    eps: Tensor,
    cond: Condition = None,
    weight: Weight | None = None,
    **extra: Tensor,
) -> Tensor:
    """Mean squared error of a denoiser on ``x`` noised to ``t`` with ``eps``.

    Without ``weight`` it is taken on the network's raw output: flow matching for a velocity network,
    ``eps``-MSE for a noise network, and for EDM preconditioning the paper's weight ``(sigma^2 + sigma_data^2)
    / (sigma sigma_data)^2`` on ``D``, which is the same thing. With ``weight`` it is ``weight(at) |D -
    x|^2``.

    Arguments:
        denoiser: the network that learns.
        x: clean data, (B, *shape).
        t: times in [0, 1], (B,); for clips also one a frame, (B, F).
        eps: standard normal noise, (B, *shape).
        cond: the condition of the B rows; None for none.
        weight: of the clean estimate's error, a function of the states' times; its result broadcasts with
            ``x``.
        **extra: further inputs of the denoiser, such as ``s`` or ``guidance``, (B,) each.

    Returns:
        A scalar.
    """
    pred = denoiser(denoiser.process.noise(x, t, eps), t, cond, **extra)
    if weight is not None:
        return (weight(pred.at) * (pred.x0 - x) ** 2).mean()
    return ((pred.raw - pred.kind.target(x, eps, pred.at)) ** 2).mean()
