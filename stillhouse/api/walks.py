"""Ways of sampling a model, walked side by side from the same noise and timed, and where the teacher's ODE
leads from there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from stillhouse import forms
from stillhouse.api.versions import plain
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

Made = tuple[Tensor, Tensor]  # states at the end of a walk, and the samples that they are
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
    memory: int = 0  # bytes that a GPU held at most while it walked
    noise: str = "evaluate"  # walks of one name start from the same noise

    @property
    def nfe(self) -> int:
        """Network evaluations of one sample."""
        return self.sampling.nfe(self.model.denoiser, self.model.conditional, self.model.networks)

    def states(self, draws: Draws, cond: Condition) -> Tensor:
        """States at the end of this walk.

        All walks that are given equal draws start from the same noise, each scaled to its own start.

        Arguments:
            draws: the source of randomness; its rows are those of the samples.
            cond: the condition of the rows, on the model's device; None for none.

        Returns:
            States, (rows, *shape).
        """
        return draw_samples(
            self.model.denoiser.eval(),
            self.sampling,
            self.model.shape,
            cond,
            draws,
            networks=self.model.networks,
        )

    def row(self, metrics: Mapping[str, float | None]) -> dict[str, Any]:
        """What an evaluation keeps of this walk and of the ``metrics`` of its samples, as plain data."""
        return {
            "who": self.who,
            "steps": self.steps,
            "nfe": self.nfe,
            "guidance": float(self.sampling.guidance),
            "solver": self.sampling.solver,
            "default": self.default,
            "metrics": {k: None if v is None else plain(v) for k, v in metrics.items()},
            "seconds_per_sample": statistics.median(self.seconds),
        }

    def draw(self, draws: Draws, cond: Condition) -> Tensor:
        """Samples of this walk.

        Arguments:
            draws: the source of randomness, as of :meth:`states`.
            cond: the condition of the rows, on the model's device; None for none.

        Returns:
            Samples, (rows, *shape), decoded where there is a codec.
        """
        return self.model.pictures(self.states(draws, cond), cond)


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


def turns(
    walks: list[Walk],
    condition: Callable[[Tensor | None, Model], Condition],
    n: int,
    batch: int,
    labels: Tensor | None,
    seed: int,
    show: bool,
) -> Iterator[tuple[int, list[Made]]]:
    """Let every walk make its samples, taking turns at each batch, so that a machine that grows slow is slow
    for all.

    Arguments:
        walks: of student and teacher; seconds are added to them.
        condition: what labels mean to a model.
        n: samples of each walk, at least 1.
        batch: samples made at once.
        labels: of the samples, (n,); None for a model without conditions.
        seed: of the noise, equal for all walks.
        show: whether a progress bar is shown.

    Returns:
        An iterator of batches: the number of the first sample, and what each walk made, in their order.

    Raises:
        StillhouseError: for a sample that is not finite.
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
            asked = None if labels is None else labels[start : start + count]
            made = []
            for walk in walks:
                device = walk.model.denoiser.device
                cond = move(condition(asked, walk.model), device)
                if start == 0:  # the first call of a network pays for allocations that no later one pays
                    first = walk.model.denoiser.process.start(
                        draws_of(count, seed, start, device, walk.noise), walk.model.shape
                    )
                    walk.model.denoiser(first, torch.ones(count, device=device), cond)
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                began = time.perf_counter()
                states = walk.states(draws_of(count, seed, start, device, walk.noise), cond)
                samples = walk.model.pictures(states, cond).cpu()  # the copy waits for the device
                walk.seconds.append((time.perf_counter() - began) / count)
                if device.type == "cuda":
                    walk.memory = max(walk.memory, torch.cuda.max_memory_allocated(device))
                bad = ~torch.isfinite(samples.flatten(1)).all(1)
                require(
                    not bool(bad.any()),
                    f"{int(bad.sum())} of {count} samples of the {walk.who} in {walk.steps} step(s) are "
                    "not finite.",
                )
                made.append((states, samples))
                bar.update(walk.nfe)
            yield start, made


def fill(
    walks: list[Walk], world: World, n: int, batch: int, labels: Tensor | None, seed: int, show: bool
) -> None:
    """Let every walk make and keep its samples of a world, see :func:`turns`.

    Arguments:
        walks: of student and teacher; samples and seconds are added to them.
        world: whose labels are meant.
        n: samples of each walk, at least 1.
        batch: samples made at once.
        labels: of the samples, (n,); None for a model without conditions.
        seed: of the noise, equal for all walks.
        show: whether a progress bar is shown.
    """

    def condition(asked: Tensor | None, model: Model) -> Condition:
        return conditions_of(world, asked, model)

    for _, made in turns(walks, condition, n, batch, labels, seed, show):
        for walk, (_, samples) in zip(walks, made, strict=True):
            walk.samples.append(samples)


def draws_of(
    count: int, seed: int, start: int, device: torch.device | str = "cpu", name: str = "evaluate"
) -> Draws:
    """The random numbers of some samples, equal for all walks.

    Arguments:
        count: how many samples.
        seed: of the evaluation.
        start: number of the first one.
        device: where they are drawn.
        name: of the noise.

    Returns:
        A source of randomness of ``count`` rows.
    """
    return Draws(count, seed, name, start, device=device)


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
