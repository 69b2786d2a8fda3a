"""Pieces of losses that several papers share, written out a second time for the oracles: plain formulas over
networks and schedules, nothing of ``stillhouse.parts``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from tests.systems.oracle import Given


def between(given: Given, low: float, high: float, shares: Tensor) -> Tensor:
    """Times from numbers in [0, 1), between two shares of the way from ``t_min`` to 1."""
    first = given.process.t_min
    return first + (1 - first) * (low + (high - low) * shares)


def falling(given: Given, first: float, steps: int) -> list[float]:
    """Times of ``steps`` calls from ``first``, evenly spaced towards ``t_min``."""
    last = given.process.t_min
    return [last + (first - last) * (steps - k) / steps for k in range(steps)]


def simulated(given: Given, times: Sequence[float], own: Draws, std: float | None = None) -> Tensor:
    """The student's samples: from noise of the first time's level (or of deviation ``std``) down to the last
    of ``times`` without gradient, by noising its own clean estimate afresh; the last call with gradient."""
    level = given.process.sigma(given.at(times[0])[0]) if std is None else std
    x_t = level * own.normal(*given.shape)
    for t, s in zip(times[:-1], times[1:], strict=True):
        with torch.no_grad():
            x = given.student(x_t, given.at(t), given.cond).x0
            x_t = given.noise(x, given.at(s), own.normal(*given.shape))
    return given.student(x_t, given.at(times[-1]), given.cond).x0


def pulled(x: Tensor, g: Tensor) -> Tensor:
    """A scalar whose gradient at ``x`` is ``g`` over the number of elements."""
    return 0.5 * (x - (x - g).detach()).square().mean()
