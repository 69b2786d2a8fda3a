"""cm: one network whose clean estimate is the same from every point of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.parts.gaps.distances import DISTANCES
from stillhouse.parts.players.guidance_range import GuidanceInput
from stillhouse.parts.targets.consistency import consistency_target, enforce_boundary
from stillhouse.parts.targets.teacher import teacher_steps
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver
from stillhouse.solvers.grids import thinned
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.published import Published, Settings
from stillhouse.train.recipe import Optim


@dataclass
class CM(GuidanceInput):
    """Consistency Models. Song, Dhariwal, Chen & Sutskever, 2023 (arXiv 2303.01469, algorithms 2 and 3).

    The student's answer at a noisy state is drawn to its EMA's answer at the state one teacher step further
    on. The chain of such equalities ends at the lowest level, where the answer is the state itself. Without
    teacher (``source = "data"``) the neighbouring state is the same pair of data and noise at the lower
    level; ``by_gap``, ``decay = 0``, the Huber distance and a doubling grid make it iCT (Song & Dhariwal,
    2023, arXiv 2310.14189). With a range of guidance scales the student takes the scale as an input; its form
    for latent models with a table of steps is ``lcm``.
    """

    source: str = option("teacher", "who gives the neighbouring state", choices=("teacher", "data"))
    solver: str = option("heun", "the teacher's step", choices=("heun", "ddim"))
    levels: int = option(18, "noise levels of the grid", low=2)
    steps: int = option(1, "default number of calls per sample", low=1)
    distance: str = option("l2", "how two answers are compared", choices=tuple(DISTANCES))
    decay: float = option(0.95, "decay of the EMA copy per step (0: the student itself)", low=0, high=1)
    curriculum: str = option(
        "none",
        "how the grid grows from `first_levels` while training from data",
        choices=("none", "root", "doubling"),
    )
    first_levels: int = option(2, "levels that the curriculum starts with", low=2)
    by_gap: bool = option(
        False, "weigh by 1 / (sigma_i - sigma_i+1) and draw levels log-normally (improved training from data)"
    )

    kind = "method"
    worlds = ("mixture", "digits", "mnist")
    needs = ("teacher", "data")
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, name="radam", schedule="cosine")}
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "openai/consistency_models@e32b69e, scripts/launch.sh, LSUN-256; of latent models (see lcm) and "
            "of adapters it is the nearest",
            lr={"student": 1e-5},
            options={"levels": 40},
            run={"optimiser": "radam", "betas": (0.9, 0.999), "weight_decay": 0.0, "clip": 0.0}
            | {"schedule": "constant", "warmup": 0, "ema": 0.9999},
        ),
        "edm": Settings("ImageNet-64", lr={"student": 8e-6}),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.low_guidance, self.high_guidance
        require(
            self.steps < self.levels,
            f"A student trained on {self.levels} levels can't be sampled in {self.steps} calls.",
        )
        require(
            self.first_levels <= self.levels,
            f"The grid can't grow from {self.first_levels} levels to {self.levels}.",
        )
        require(
            self.source == "teacher" or low == high == 1,
            "Guidance is the teacher's; training from data alone has none.",
        )

    def build(self) -> None:
        enforce_boundary(self.student)
        self.target: Denoiser = self.ema_copy(self.student, self.decay_at)

    def levels_at(self, step: int) -> int:
        """Grid size at a step: ``ceil(sqrt(k/K ((s_1 + 1)^2 - s_0^2) + s_0^2) - 1) + 1`` (section 5),
        doubling (iCT), or constant."""
        first, last = self.first_levels, self.levels
        if self.curriculum == "none":
            return last
        if self.curriculum == "root":
            return max(1, math.ceil(math.sqrt(step / self.total * (last**2 - first**2) + first**2) - 1)) + 1
        stages = (
            math.ceil(math.log2((last - 1) / (first - 1))) + 1
        )  # of equal length; intervals double from one to the next
        return int(min((first - 1) * 2 ** (step * stages // self.total), last - 1) + 1)

    def decay_at(self, step: int) -> float:
        """Decay of the student's EMA; on a growing grid ``exp(s_0 ln mu_0 / n)``."""
        if self.curriculum == "none" or self.decay == 0:
            return self.decay
        return math.exp(self.first_levels * math.log(self.decay) / (self.levels_at(step) - 1))

    def grid(self, levels: int) -> Tensor:
        """Falling times, noisiest first; on a VE process these are the Karras levels."""
        return self.process.on_table(torch.linspace(1.0, self.process.t_min, levels))

    def student_loss(self, batch: Batch) -> Tensor:
        grid = self.grid(self.levels_at(batch.step)).to(batch.draws.device)
        i = self.draw_levels(grid, batch)
        t, u, eps = grid[i], grid[i + 1], batch.noise()
        x_t = self.process.noise(batch.data, t, eps)
        w = batch.draws.uniform(self.low_guidance, self.high_guidance) if self.takes_guidance else None
        with torch.no_grad():
            x_u = self.neighbour(x_t, t, u, eps, batch, w)
            target = self.target_x0(x_u, u, batch, w)
        gap = DISTANCES[self.distance](predict_x0(self.student, x_t, t, batch.cond, w), target)
        if self.by_gap:
            gap = gap / (self.process.sigma(t) - self.process.sigma(u))
        return gap.mean()

    def neighbour(
        self, x_t: Tensor, t: Tensor, u: Tensor, eps: Tensor, batch: Batch, w: Tensor | None
    ) -> Tensor:
        """The state at the next level down of the trajectory that ``x_t`` lies on.

        Arguments:
            x_t: states, (B, *shape).
            t: times in [0, 1], (B,).
            u: times of the next level, (B,).
            eps: the noise of the states, (B, *shape).
            batch: gives data and condition.
            w: guidance scales, (B,); None where the scale is fixed.

        Returns:
            The states at ``u``, (B, *shape).
        """
        if self.source == "data":
            return self.process.noise(batch.data, u, eps)
        teacher = Guided(self.teacher, self.high_guidance if w is None else w)
        return teacher_steps(teacher, x_t, [t, u], batch.cond, make_solver(self.solver))

    def target_x0(self, x_u: Tensor, u: Tensor, batch: Batch, w: Tensor | None) -> Tensor:
        """The clean estimate of the student's EMA; at the lowest level the state itself.

        Arguments:
            x_u: states, (B, *shape).
            u: their times in [0, 1], (B,).
            batch: gives the condition.
            w: guidance scales, (B,), for a student that takes them; None otherwise.

        Returns:
            The target, (B, *shape).
        """
        return consistency_target(self.target, x_u, u, self.process.t_min, batch.cond, w)

    def draw_levels(self, grid: Tensor, batch: Batch) -> Tensor:
        """Which two neighbouring levels each sample is trained at: uniform, or log-normal under ``by_gap``.

        Arguments:
            grid: falling times, (levels,).
            batch: gives the source of randomness.

        Returns:
            Indices of the noisier of the two, (B,).
        """
        if not self.by_gap:
            return batch.draws.integers(0, len(grid) - 1)
        mass = torch.erf((1.1 - self.process.log_snr(grid)) / (2 * math.sqrt(2)))
        return batch.draws.categorical((mass[:-1] - mass[1:]).clamp_min(0))

    def samplings(self) -> dict[int, Sampling]:
        ways = [self.steps, *(k for k in (1, 2, 4) if k != self.steps and k < self.levels)]
        return {
            k: Sampling(thinned(self.grid(self.levels), k), "renoise", self.sampling_guidance) for k in ways
        }
