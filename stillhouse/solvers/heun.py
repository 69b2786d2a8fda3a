"""Heun's second-order method (Karras et al., 2022, arXiv 2206.00364, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import unknown
from stillhouse.core.flowmap import ddim_step
from stillhouse.core.process import Process, expand_to
from stillhouse.solvers.base import History, Predict, Solver

COORDINATES = ("auto", "ratio", "flow")


@dataclass
class Heun(Solver):
    """A DDIM step, then the mean of the slopes at its two ends. Two evaluations; one where ``sigma_s = 0``,
    which stays DDIM.

    Along ``z = x / (alpha + k sigma)`` against ``sigma / (alpha + k sigma)`` every DDIM step is a straight
    line of slope ``eps - k x0``; the trapezoid is taken there. ``coordinate``: *ratio* is ``k = 0``, EDM's
    own, which degenerates to DDIM where ``alpha = 0``; *flow* is ``k = 1``, the usual Heun of a flow's
    velocity, finite at both ends; *auto* takes ``ratio`` for a process whose signal never fades (VE) and
    ``flow`` for all others.
    """

    coordinate: str = "auto"
    name = "heun"
    evaluations = 2

    def __post_init__(self) -> None:
        if self.coordinate not in COORDINATES:
            raise unknown("coordinate of Heun", self.coordinate, COORDINATES)

    def _k(self, process: Process) -> float:
        if self.coordinate == "auto":
            return float(process.alpha(torch.ones(1)).item() < 1)
        return float(self.coordinate == "flow")

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        p_t = predict(x, t, s)
        process, euler = p_t.at.process, ddim_step(p_t, s)
        if bool((process.sigma(s) == 0).all()):
            return euler
        p_s, k = predict(euler, s, s), self._k(process)
        weight = process.sigma(s) - process.sigma(t) * (process.alpha(s) + k * process.sigma(s)) / (
            process.alpha(t) + k * process.sigma(t)
        )
        weight = torch.where(weight.isfinite() & (process.sigma(s) > 0), weight, torch.zeros_like(weight))
        correction = p_s.eps - p_t.eps - k * (p_s.x0 - p_t.x0)
        return euler + expand_to(weight / 2, x) * correction

    def evaluation_times(self, process: Process, times: Sequence[float]) -> list[float]:
        clean = process.sigma(torch.tensor(times[-1], dtype=torch.float64)).item() == 0
        return [*times[:-1], *(times[1:-1] if clean else times[1:])]
