"""Does a network read its times as it is called? Times run from 0, data, to 1, noise; many networks of others
want steps 0 to 999, or time that runs the other way."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stillhouse.core.bridge import Bridge
from stillhouse.core.conditions import Condition, cycled, move, size
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.prediction import Eps, V, Velocity
from stillhouse.core.schedules import VE

log = logging.getLogger("stillhouse")

AT_NOISE, AT_DATA = (0.7, 0.85, 0.95), (0.2, 0.4, 0.6, 0.8)  # times without and with data
WELL = 0.05  # an error under which a network denoises, however it is called
CLEARLY = 0.5  # share of the error under which another reading of time is the right one
STEPS, REVERSED = "steps 0 … 999", "time from 0, noise, to 1, data"


def rows_of(shape: tuple[int, ...]) -> int:
    """How many samples of a shape a network is tried on: few large ones, more small ones."""
    return 2 if math.prod(shape) >= 1024 else 16


def _steps(denoiser: Denoiser) -> Denoiser:
    def call(net: nn.Module, x: Tensor, t: Tensor, cond: Condition, **extra: Tensor) -> Tensor:
        return denoiser.call(net, x, 999 * t, cond, **extra)

    return _called(denoiser, call)


def _reversed(denoiser: Denoiser) -> Denoiser:
    sign = -1 if isinstance(denoiser.kind, Velocity) else 1  # the velocity towards the data

    def call(net: nn.Module, x: Tensor, t: Tensor, cond: Condition, **extra: Tensor) -> Tensor:
        return sign * denoiser.call(net, x, 1 - t, cond, **extra)

    return _called(denoiser, call)


def _called(denoiser: Denoiser, call: Callable[..., Tensor]) -> Denoiser:
    return Denoiser(denoiser.net, denoiser.process, denoiser.kind, call=call, empty=denoiser.empty)


ADVICE = {
    STEPS: "call=lambda net, x, t, cond: net(x, 999 * t, cond)",
    REVERSED: "call=lambda net, x, t, cond: -net(x, 1 - t, cond) for a velocity, without the sign for noise",
}


def error(denoiser: Denoiser, x0: Tensor | None, cond: Condition, shape: tuple[int, ...]) -> float:
    """How far a network is from denoising: the mean squared error of ``v = alpha eps - sigma x0``, with the
    two scaled to a unit circle, over several times.

    Arguments:
        denoiser: of a process near the unit circle.
        x0: data, (B, *shape); None for zeros at large noise.
        cond: the condition of the B rows; None for none.
        shape: of one sample.

    Returns:
        The error; about the data's variance for a network that knows nothing.
    """
    device = denoiser.device
    n = rows_of(shape) if x0 is None else len(x0)
    clean = torch.zeros(n, *shape, device=device) if x0 is None else x0.to(device)
    total, times = 0.0, AT_NOISE if x0 is None else AT_DATA
    for at in times:
        t = torch.full((n,), at, device=device)
        eps = Draws(n, 0, "times", str(at), device=device).normal(*shape)
        found = denoiser(denoiser.process.noise(clean, t, eps), t, cond).eps
        alpha, sigma = float(denoiser.process.alpha(t[:1])), float(denoiser.process.sigma(t[:1]))
        share = alpha**2 / (alpha**2 + sigma**2)
        total += float((found.float() - eps).square().mean()) / share
    return total / len(times)


def misread(
    denoiser: Denoiser, shape: tuple[int, ...], cond: Condition = None, x0: Tensor | None = None
) -> str:
    """How a network seems to want its times, if not as it is called.

    A network that was never trained denoises under no reading, and none is clearly better.

    Arguments:
        denoiser: of a user's network; its weights, mode and counts stay as they are.
        shape: of one sample.
        cond: conditions to call it under, one or more rows; None for none.
        x0: data, (B, *shape), with the condition's rows; None: a guess at large noise, whose data are zeros.

    Returns:
        :data:`STEPS`, :data:`REVERSED`, or an empty string: as it is called, or nothing can be found out.
    """
    process = denoiser.process
    plain = isinstance(denoiser.kind, Eps | V | Velocity) and not denoiser.two_time
    if not plain or process.discrete or isinstance(process, Bridge | VE):
        return ""
    rows = rows_of(shape) if x0 is None else len(x0)
    cond = move(cycled(cond, rows), denoiser.device) if size(cond) else None
    training = denoiser.training
    denoiser.eval()
    try:
        with torch.no_grad():
            given = error(_called(denoiser, denoiser.call), x0, cond, shape)
            if given <= WELL:
                return ""
            twins = {STEPS: _steps(denoiser), REVERSED: _reversed(denoiser)}
            others = {name: error(twin, x0, cond, shape) for name, twin in twins.items()}
            best = min(others, key=lambda name: others[name])
            if others[best] < CLEARLY * min(given, 1.5):
                return best
    except Exception as failed:  # what a network can't be called with is found elsewhere
        log.debug("Times not looked at: %s", failed)
    finally:
        denoiser.train(training)
    return ""


def warn_of_times(
    denoiser: Denoiser, shape: tuple[int, ...], cond: Condition = None, x0: Tensor | None = None
) -> None:
    """One line where a network seems to want its times in another way, see :func:`misread`.

    Arguments:
        denoiser: of a user's network.
        shape: of one sample.
        cond: conditions; None for none.
        x0: data, (B, *shape); None for none.
    """
    if getattr(denoiser, "times_warned", False):
        return
    wanted = misread(denoiser, shape, cond, x0)
    if wanted:
        denoiser.times_warned = True  # type: ignore[assignment]  # one warning once
        log.warning(
            "%s seems to want %s: called with times from 0, data, to 1, noise, it denoises far worse. Load "
            "it with "
            "%s",
            type(denoiser.net).__name__,
            wanted,
            ADVICE[wanted],
        )
