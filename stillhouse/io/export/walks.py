"""A student's way of sampling as rows of plain numbers, which a Diffusers scheduler can follow without
knowing us."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.prediction import EDM, At, Prediction
from stillhouse.core.schedules import VE, ScaledLinearVP
from stillhouse.io.pipelines import Family
from stillhouse.solvers import make_solver
from stillhouse.solvers.base import History
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.simple import Leap, Renoise


class Sampled(Protocol):
    """The fields of a sampling; see :class:`stillhouse.samplers.sampling.Sampling`."""

    @property
    def times(self) -> list[float]: ...

    @property
    def solver(self) -> str | dict[str, Any]: ...

    @property
    def guidance(self) -> float: ...

    @property
    def start(self) -> float | None: ...

    @property
    def plain(self) -> bool: ...

    def config(self) -> dict[str, Any]: ...


@dataclass
class Walk:
    """One way of sampling: ``rows`` as :class:`FewStepScheduler` takes them, and the deviation of the noise
    it starts from."""

    rows: list[list[float]]
    start: float

    @property
    def stochastic(self) -> bool:
        """Whether any step draws fresh noise."""
        return any(row[4] for row in self.rows)


def first_level(family: Family, time: float) -> float:
    """Standard deviation of the noise that Diffusers starts a walk from, in our coordinates.

    Pipelines on a table of noise levels start from deviation 1 although ``sigma`` at its last step is a
    little less, and EDM's scheduler from ``sqrt(sigma^2 + 1)``: a student does as they do, so that both draw
    the same. One that is trained to start lower (by more than a hundredth) keeps to its level.

    Arguments:
        family: of the pipeline.
        time: where the walk starts, in (0, 1].

    Returns:
        The deviation; ``sigma(time)`` below the top.
    """
    process = family.process
    level = float(process.sigma(torch.tensor(time, dtype=torch.float64)))
    if isinstance(process, ScaledLinearVP) and level > 0.99:
        return 1.0
    return (
        math.hypot(level, 1)
        if isinstance(process, VE) and isinstance(family.kind, EDM) and time == 1
        else level
    )


def default_guidance(family: Family) -> float:
    """The scale that a network which takes one is given where a method names none: Flux's own default, none
    for others."""
    return family.guidance if getattr(family.network, "config", {}).get("guidance_embeds") else 1.0


class _Given(Draws):
    """Draws that answer with what they were given."""

    def __init__(self, noise: Tensor):
        super().__init__(len(noise), "walk")
        self.noise = noise

    def normal_like(self, x: Tensor) -> Tensor:
        return self.noise


def walk(family: Family, denoiser: Denoiser, sampling: Sampled) -> Walk:
    """A sampling as rows: each step's weights of state, output and noise, found by applying its solver to
    unit vectors.

    Arguments:
        family: of the student's pipeline.
        denoiser: the student.
        sampling: of one leg.

    Returns:
        The walk; raises :class:`StillhouseError` for solvers that call the network twice a step or keep
        earlier steps.
    """
    solver = make_solver(sampling.solver)
    require(
        isinstance(solver, DDIM | Renoise | Leap),
        f"Steps of the solver '{solver.name}' can't be given to Diffusers one by one; save a student that "
        "walks by ddim, renoise or leap.",
    )
    basis = torch.eye(3, dtype=torch.float64)
    state, output, noise = basis[:1], basis[1:2] * family.schedule.sign, basis[2:]
    rows, history = [], History(denoiser.process)

    def predict(x: Tensor, t: Tensor, s: Tensor) -> Prediction:
        return Prediction(output, denoiser.kind, At(denoiser.process, t, x))

    for i, (now, then) in enumerate(zip(sampling.times, sampling.times[1:], strict=False)):
        history.left = len(sampling.times) - 2 - i
        t, s = (torch.tensor([v], dtype=torch.float64) for v in (now, then))
        weights = solver.step(predict, state, t, s, history, _Given(noise))[0].tolist()
        at = At(denoiser.process, t, torch.ones(1, dtype=torch.float64))
        step = family.step_of(denoiser.kind.inputs(at)[1].float())
        rows.append(
            [step.item(), denoiser.kind.inputs(at)[0].item(), *weights, at.alpha.item(), at.sigma.item()]
        )
    level = float(denoiser.process.sigma(torch.tensor(sampling.times[0], dtype=torch.float64)))
    return Walk(rows, level if sampling.start is None else sampling.start)
