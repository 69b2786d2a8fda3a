"""oss: the few times among a teacher's many at which its own Euler steps stay nearest to its trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, move
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.process import expand_to
from stillhouse.model import Model
from stillhouse.parts.states.schedule_search import Path, Slope, median_path, search, straight_times
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.base import Operation, Work
from stillhouse.train.option import option
from stillhouse.train.published import Published, Settings


@dataclass
class OSS(Operation):
    """Optimal Stepsize for Diffusion Sampling. Pei, Hu & Gu, 2025 (arXiv 2503.21774).

    A dynamic programme over the teacher's own time grid finds the few of its times between which Euler's
    steps end nearest to the trajectory of all of them. Nothing is trained: what comes out is the teacher with
    other samplings, one for each number of steps up to the one that was searched for. The first step begins
    at the noisy end and the cost is the mean over a batch, where the released code lets a path begin anywhere
    and searches sample by sample.
    """

    steps: int = option(8, "most steps of a searched schedule; all lower numbers are found with it", low=1)
    grid_steps: int = option(100, "steps of the teacher's own walk, whose times are chosen from", low=2)
    searched: int = option(16, "samples that the search walks", low=1)
    guidance: float = option(
        -1.0, "guidance scale inside the search (1: none; negative: the teacher's own)", low=-1
    )
    combine: str = option(
        "mean",
        "one search on the mean cost of the samples, or the median of a search for each",
        choices=("mean", "median"),
    )
    anchor: bool = option(True, "every schedule begins at pure noise")
    power: float = option(2.0, "power of the deviation that the cost averages", low=0.1)

    kind = "operation"
    worlds = ("mixture", "shapes")
    needs = ("teacher",)
    published: ClassVar[Published] = {
        "dit": Settings(
            "bebebe666/OptimalSteps@ee35043, scripts/dit.sh", options={"grid_steps": 200, "steps": 5}
        ),
        "flux": Settings(
            "bebebe666/OptimalSteps@ee35043, scripts/flux.sh", options={"grid_steps": 100, "steps": 10}
        ),
        "wan": Settings(
            "bebebe666/OptimalSteps@ee35043, scripts/wan.sh", options={"grid_steps": 200, "steps": 20}
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.steps < self.grid_steps,
            f"A schedule of {self.steps} steps is chosen from a grid of more than as many, not of "
            f"{self.grid_steps}.",
        )

    def suits(self, teacher: Model) -> None:
        """Refuse a model that has no schedule to be searched."""
        require(
            teacher.free_steps and not teacher.denoiser.process.discrete,
            "A schedule is searched for a many-step model of vectors; a student has the steps it learned.",
        )

    def apply(self, models: Mapping[str, Model], work: Work) -> Model:
        """The teacher with searched samplings, the longest one first; its network is the same object."""
        teacher = models["teacher"]
        self.suits(teacher)
        base = teacher.sampling(self.grid_steps, self.guidance if self.guidance > 0 else None)
        indices = self._paths(teacher, base, work)
        times = list(reversed(base.times))
        samplings = {
            len(path) - 1: Sampling(
                [times[i] for i in path], "ddim", base.guidance, self._start(teacher.denoiser, base, path)
            )
            for path in indices
        }
        return replace(teacher, samplings=samplings, free_steps=False, info=teacher.info | self.describe())

    @torch.no_grad()
    def _paths(self, teacher: Model, base: Sampling, work: Work) -> list[Path]:
        """The best falling indices of the grid of ``base``, for ``steps`` steps and all lower numbers."""
        rows, device = self.searched, teacher.denoiser.device
        _, cond = work.rows(rows, "search")
        draws = work.draws(rows, "search")
        process, denoiser = teacher.denoiser.process, teacher.denoiser.eval()
        start = process.start(draws, teacher.shape, base.times[0], base.start).to(device)
        grid = list(reversed(base.times))
        times = straight_times(process, grid)
        first = torch.full((rows,), base.times[0], dtype=torch.float64, device=device)
        y = start / expand_to(process.alpha(first) + process.sigma(first), start)
        slope = slope_of(denoiser, base, grid, move(cond, device))
        tables = search(
            slope,
            y,
            times,
            self.steps,
            each=self.combine == "median",
            anchor=self.anchor,
            power=self.power,
            levels=work.progress(range(self.steps), "search", "level"),
        )
        counts = range(self.steps, 0, -1)
        if self.combine == "mean":
            return [tables.path(n) for n in counts]
        return [median_path([tables.path(n, g) for g in range(rows)], n) for n in counts]

    def _start(self, denoiser: Denoiser, base: Sampling, path: Path) -> float | None:
        """Deviation of the first noise: the teacher's own, or, below the noisy end, as the search treated
        it."""
        if path[0] == len(base.times) - 1:
            return base.start
        ends = torch.tensor([base.times[0], base.times[len(base.times) - 1 - path[0]]], dtype=torch.float64)
        level = denoiser.process.alpha(ends) + denoiser.process.sigma(ends)
        top = float(denoiser.process.sigma(ends[:1])) if base.start is None else base.start
        return top * float(level[1] / level[0])


def slope_of(denoiser: Denoiser, base: Sampling, grid: list[float], cond: Condition) -> Slope:
    """A model in the coordinates of the straight path, ``y = x / (alpha + sigma)``.

    Arguments:
        denoiser: of any process of vectors.
        base: how it is guided.
        grid: rising times of the process.
        cond: conditions of the B samples.

    Returns:
        ``(i, y) -> (x0, eps)``, each (B, …) in float32. A step of Euler's method along the straight line
        between them is a DDIM step of the process.
    """
    guided = base.guided(denoiser)

    def slope(i: int, y: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.full((len(y),), grid[i], dtype=torch.float64, device=y.device)
        scale = expand_to(denoiser.process.alpha(t) + denoiser.process.sigma(t), y)
        pred = guided(scale * y, t, cond)
        return pred.x0.float(), pred.eps.float()

    return slope
