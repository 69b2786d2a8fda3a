"""Pieces of losses that several papers share, written out a second time for the oracles: plain formulas over
networks and schedules, nothing of ``stillhouse.parts``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.process import Process
from stillhouse.core.schedules import VE, ScaledLinearVP
from tests.systems.oracle import Given


def between(given: Given, low: float, high: float, shares: Tensor) -> Tensor:
    """Times from numbers in [0, 1), between two shares of the way from ``t_min`` to 1; of a table its steps,
    the next ones up."""
    first = given.process.t_min
    return steps_up(given, first + (1 - first) * (low + (high - low) * shares))


def steps_up(given: Given, t: Tensor) -> Tensor:
    """Times of a table's steps, step ``i`` of ``n`` being at ``(i + 1) / n``; elsewhere the times as they
    are."""
    table = given.process
    return (t * table.steps).ceil().clamp_min(1) / table.steps if isinstance(table, ScaledLinearVP) else t


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


def preserving(given: Given, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``sigma`` of the variance-preserving process of equal signal-to-noise, to multiply
    ``x``."""
    t = t.reshape(-1, *[1] * (x.dim() - 1))
    alpha, sigma = given.process.alpha(t), given.process.sigma(t)
    return alpha / (alpha**2 + sigma**2).sqrt(), sigma / (alpha**2 + sigma**2).sqrt()


def walked(given: Given, net: Denoiser, eps: Tensor, steps: int, w: float) -> Tensor:
    """Where the guided ODE leads from ``eps`` times the last noise level: Heun's steps, even in time from 1
    to 0, against ``sigma`` on VE and against time on Flow; the last step is Euler's."""
    variance_exploding = isinstance(given.process, VE)
    view = "eps" if variance_exploding else "velocity"  # the slope against sigma, against time

    def slope(x: Tensor, time: float) -> Tensor:
        return given.guided(net, x, given.at(time), w, view)

    def place(time: float) -> float:
        return float(given.process.sigma(given.at(time))[0]) if variance_exploding else time

    x = place(1.0) * eps
    for k in range(steps):
        here, there = 1 - k / steps, 1 - (k + 1) / steps
        way, first = place(there) - place(here), slope(x, here)
        mean = first if there == 0 else (first + slope(x + way * first, there)) / 2
        x = x + way * mean
    return x


def pulled(x: Tensor, g: Tensor) -> Tensor:
    """A scalar whose gradient at ``x`` is ``g`` over the number of elements."""
    return 0.5 * (x - (x - g).detach()).square().mean()


def published(given: Given, shares: Tensor) -> Tensor:
    """Times of steps such as "250 of 1000". A table counts from 0, and its row 0 lies at ``1 / 1000``."""
    low = given.process.t_min
    return shares + 1 / 1000 if isinstance(given.process, ScaledLinearVP) else shares.clamp_min(low)


# of points, a mean over the batch
DISTANCES = {
    "l2": lambda a, b: (a - b).square().mean(),
    "l1": lambda a, b: (a - b).abs().mean(),
    "huber": lambda a, b: (((a - b).square().sum(1) + 2 * 0.00054**2).sqrt() - 0.00054 * 2**0.5).mean(),
}

Clean = Callable[[Tensor, Tensor], Tensor]  # the clean estimate of states (B, …) at times (B,)


def over(coefficient: Tensor, x: Tensor) -> Tensor:
    """A number a row, to multiply ``x``."""
    return coefficient.reshape(-1, *[1] * (x.dim() - 1))


def ddim(given: Given, clean: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """``alpha_s D + sigma_s (x_t - alpha_t D) / sigma_t``."""
    alpha, sigma = given.process.alpha, given.process.sigma
    eps = (x_t - over(alpha(t), x_t) * clean) / over(sigma(t), x_t)
    return over(alpha(s), x_t) * clean + over(sigma(s), x_t) * eps


def ddim_walk(given: Given, clean: Clean, x: Tensor, times: Sequence[float]) -> Tensor:
    """DDIM steps along ``times``."""
    for t, s in zip(times, times[1:], strict=False):
        x = ddim(given, clean(x, given.at(t)), x, given.at(t), given.at(s))
    return x


def heun_walk(given: Given, clean: Clean, x: Tensor, times: Sequence[float], process: Process) -> Tensor:
    """Heun's method on ``z = x / (alpha + k sigma)`` against ``r = sigma / (alpha + k sigma)``, where ``dz/dr
    = eps - k D``: with ``k = 0`` EDM's algorithm 1 (VE), with ``k = 1`` that of a flow. The step to ``sigma =
    0`` is Euler's."""
    k = float(not isinstance(process, VE))

    def slope(x: Tensor, t: float) -> Tensor:
        time = given.at(t)
        d = clean(x, time)
        return (x - over(process.alpha(time), x) * d) / over(process.sigma(time), x) - k * d

    for t, s in zip(times, times[1:], strict=False):
        (a, b), (c, d) = ((process.alpha(given.at(v))[0], process.sigma(given.at(v))[0]) for v in (t, s))
        start, size, along = x / (a + k * b), c + k * d, d / (c + k * d) - b / (a + k * b)
        first = slope(x, t)
        x = size * (start + along * first)
        if d > 0:
            x = size * (start + along * (first + slope(x, s)) / 2)
    return x
