"""The moves that students make: to the clean end, or some way past the next time, and back up with fresh
noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.flowmap import ddim_step
from stillhouse.core.process import Process, expand_to
from stillhouse.solvers.base import History, Predict, Solver, fresh


@dataclass
class Renoise(Solver):
    """Go to the clean end, then noise it afresh: ``x_s = alpha_s x0 + sigma_s z`` (the multistep consistency
    sampler).

    ``gamma`` in [0, 1]: the deterministic share is a jump to the *time* ``(1 - gamma) s``, from where fresh
    noise leads back up to ``s`` (strategic stochastic sampling; Zheng et al., 2024, arXiv 2402.19159, where
    it is ``eta`` of Diffusers' TCD scheduler); ``gamma = 1`` is the plain re-noising move, 0 is DDIM. The
    step to ``t = 0`` is the clean estimate itself.
    """

    gamma: float = 1.0
    name = "renoise"

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, f"The re-noised share gamma must lie in [0, 1], not {self.gamma}.")
        self.stochastic = self.gamma > 0

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        middle = self.middle(history.process, s)
        pred = predict(x, t, middle)
        if history.left == 0 and bool((s == 0).all()):
            return pred.x0
        if self.gamma == 1:
            return pred.at.process.noise(pred.x0, s, fresh(draws, x))
        down = ddim_step(pred, middle)
        return renoise_up(pred.at.process, down, middle, s, fresh(draws, x)) if self.gamma else down

    def middle(self, process: Process, s: Tensor) -> Tensor:
        """Where the deterministic jump ends.

        Arguments:
            process: the process of the walk.
            s: times that the step leads to, (B,).

        Returns:
            Earlier times, (B,).
        """
        return (1 - self.gamma) * s


@dataclass
class GammaSampling(Renoise):
    """gamma-sampling of consistency trajectory models (Kim et al., 2023, arXiv 2310.02279).

    The jump ends where ``sqrt(1 - gamma^2)`` of the noise level ``sigma / alpha`` at ``s`` is left: of the
    noise's variance there, the share ``gamma^2`` is fresh, whatever the process.
    """

    name = "gamma"

    def middle(self, process: Process, s: Tensor) -> Tensor:
        if self.gamma == 0:
            return s
        return process.time_of_ratio(math.sqrt(1 - self.gamma**2) * process.ratio(s)).to(s)


def renoise_up(process: Process, x: Tensor, t: Tensor, s: Tensor, eps: Tensor) -> Tensor:
    """From a state at ``t`` up to one at ``s >= t``: scale the signal, add what is missing of the noise
    ``eps``.

    Arguments:
        process: the process of the walk.
        x: states, (B, …).
        t: their times in [0, 1], (B,).
        s: later times, (B,).
        eps: standard normal noise, (B, …).

    Returns:
        The states at ``s``, (B, …).
    """
    scale = process.alpha(s) / process.alpha(t)
    added = (process.sigma(s) ** 2 - (scale * process.sigma(t)) ** 2).clamp_min(0).sqrt()
    return expand_to(scale, x) * x + expand_to(added, x) * eps


@dataclass
class Leap(Solver):
    """Jump twice as far as the grid's next time, then noise back up: ``t -> 2 s - t`` along the predicted
    line, and up to ``s``.

    The stochastic sampler of few-step students on an even grid (Meng et al., 2022, arXiv 2210.03142, section
    3.3): jumps of two intervals, one of noise. A jump that would pass ``t = 0`` ends there; the step to ``t =
    0`` is the clean estimate itself.
    """

    name = "leap"
    stochastic = True

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        below = (2 * s - t).clamp_min(0)
        pred = predict(x, t, below)
        if bool((s == 0).all()):
            return pred.x0
        return renoise_up(pred.at.process, ddim_step(pred, below), below, s, fresh(draws, x))
