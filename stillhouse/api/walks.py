"""Ways of sampling a model, walked side by side from the same noise and timed, and where the teacher's ODE
leads from there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from stillhouse import forms
from stillhouse.core.conditions import Condition, move
from stillhouse.core.denoiser import ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.model import Model
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.rollout import prior
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver
from stillhouse.solvers.rk45 import endpoint
from stillhouse.train.data import conditions_of
from stillhouse.worlds.base import World

PAIRS = 512  # of a closed-form teacher, whose endpoints are integrated to a tight tolerance


@dataclass
class Walk:
    """One way of sampling one model, with the samples and times it has gathered."""

    who: Literal["student", "teacher"]
    model: Model
    steps: int
    sampling: Sampling
    default: bool
    samples: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def nfe(self) -> int:
        """Network evaluations of one sample."""
        return self.sampling.nfe(self.model.denoiser, self.model.conditional, self.model.networks)

    def draw(self, draws: Draws, cond: Condition) -> Tensor:
        """Samples of this walk.

        All walks that are given equal draws start from the same noise, each scaled to its own start.

        Arguments:
            draws: the source of randomness; its rows are those of the samples.
            cond: the condition of the rows, on the model's device; None for none.

        Returns:
            Samples, (rows, *shape), decoded where there is a codec.
        """
        return self.model.pictures(
            draw_samples(
                self.model.denoiser.eval(),
                self.sampling,
                self.model.shape,
                cond,
                draws,
                networks=self.model.networks,
            ),
            cond,
        )


def walks_of(
    model: Model,
    who: Literal["student", "teacher"],
    steps: Sequence[int],
    solver: str | dict[str, Any] | None = None,
) -> list[Walk]:
    """The ways of sampling a model.

    Arguments:
        model: student or teacher.
        who: which of them it is, noted in the rows.
        steps: further numbers of steps, of a many-step model.
        solver: name or configuration of a solver in the place of the model's own; None for that.

    Returns:
        One walk a number of steps, rising.
    """
    usual = next(iter(model.samplings))
    walks = []
    for count in sorted({*model.samplings, *(steps if model.free_steps else ())}):
        chosen = model.samplings[count] if count in model.samplings else model.sampling(count)
        walks.append(Walk(who, model, count, chosen.changed(solver=solver or chosen.solver), count == usual))
    return walks


def fill(
    walks: list[Walk], world: World, n: int, batch: int, labels: Tensor | None, seed: int, show: bool
) -> None:
    """Let every walk make its samples, taking turns at each batch, so that a machine that grows slow is slow
    for all.

    Arguments:
        walks: of student and teacher; samples and seconds are added to them.
        world: whose labels are meant.
        n: samples of each walk, at least 1.
        batch: samples made at once.
        labels: of the samples, (n,); None for a model without conditions.
        seed: of the noise, equal for all walks.
        show: whether a progress bar is shown.
    """
    starts = range(0, n, batch)
    with tqdm(
        total=len(starts) * sum(w.nfe for w in walks),
        desc="evaluate",
        disable=not show,
        unit="call",
        dynamic_ncols=True,
    ) as bar:
        for start in starts:
            count = min(batch, n - start)
            for walk in walks:
                device = walk.model.denoiser.device
                asked = None if labels is None else labels[start : start + count]
                cond = move(conditions_of(world, asked, walk.model), device)
                if start == 0:  # the first call of a network pays for allocations that no later one pays
                    first = walk.model.denoiser.process.start(
                        draws_of(count, seed, start, device), walk.model.shape
                    )
                    walk.model.denoiser(first, torch.ones(count, device=device), cond)
                began = time.perf_counter()
                made = walk.draw(
                    draws_of(count, seed, start, device), cond
                ).cpu()  # the copy waits for the device
                walk.seconds.append((time.perf_counter() - began) / count)
                bad = ~torch.isfinite(made.flatten(1)).all(1)
                require(
                    not bool(bad.any()),
                    f"{int(bad.sum())} of {count} samples of the {walk.who} in {walk.steps} step(s) are "
                    "not finite.",
                )
                walk.samples.append(made)
                bar.update(walk.nfe)


def draws_of(count: int, seed: int, start: int, device: torch.device | str = "cpu") -> Draws:
    """The random numbers of some samples, equal for all walks.

    Arguments:
        count: how many samples.
        seed: of the evaluation.
        start: number of the first one.
        device: where they are drawn.

    Returns:
        A source of randomness of ``count`` rows.
    """
    return Draws(count, seed, "evaluate", start, device=device)


def endpoints(
    walks: list[Walk],
    world: World,
    teacher: Model | None,
    n: int,
    batch: int,
    labels: Tensor | None,
    seed: int,
) -> list[Tensor] | None:
    """Where the teacher's ODE leads from the noise of the walks.

    Arguments:
        walks: filled ones, the teacher's among them.
        world: whose labels are meant.
        teacher: None where there is none.
        n: samples of each walk.
        batch: samples integrated at once.
        labels: of the samples, (n,); None for a model without conditions.
        seed: of the walks.

    Returns:
        Batches of endpoints, at most :data:`PAIRS` in all, of a closed-form teacher; the samples of any other
        one's finest walk; None where there is no such thing.
    """
    if teacher is None or not forms.of(teacher).continuous:
        return None
    own = [w for w in walks if w.who == "teacher"]
    if not isinstance(teacher.denoiser, ExactDenoiser):
        return max(own, key=lambda w: (w.nfe, not make_solver(w.sampling.solver).stochastic)).samples
    guided = next(w for w in own if w.default).sampling.guided(teacher.denoiser)
    ends = []
    for start in range(0, min(n, PAIRS), batch):
        count = min(batch, n - start)
        noise = prior(teacher.denoiser.process, draws_of(count, seed, start), *teacher.shape)
        with torch.inference_mode():
            cond = None if labels is None else world.condition(labels[start : start + count])
            ends.append(endpoint(guided, noise, 1.0, 0.0, cond).float())
    return ends
