"""cm: one network that says the same clean end from every point of a trajectory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.denoiser import EDM, Denoiser
from stillhouse.flowmap import clean
from stillhouse.parts.distances import DISTANCES
from stillhouse.parts.teacher import teacher_steps
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.method import Batch, Method, option
from stillhouse.train.recipe import Optim


@dataclass
class CM(Method):
    """Consistency Models. Song, Dhariwal, Chen & Sutskever, 2023 (arXiv 2303.01469, algorithms 2 and 3).

    The student's answer at a noisy state is drawn to its slow copy's answer at the state one teacher step further on. The chain of
    such equalities ends at the data, where the answer is the state itself. Without teacher (``source = "data"``) the neighbouring
    state is the same pair of data and noise at the lower level.
    """

    source: str = option("teacher", "who gives the neighbouring state", choices=("teacher", "data"))
    levels: int = option(18, "noise levels of the grid", low=2)
    steps: int = option(1, "default number of calls per sample", low=1)
    distance: str = option("l2", "how two answers are compared", choices=tuple(DISTANCES))
    decay: float = option(0.95, "decay of the slow copy per step (0: the student itself)", low=0, high=1)
    curriculum: bool = option(False, "grow the grid from `first_levels` to `levels` while training, as from-data training does")
    first_levels: int = option(2, "levels that the curriculum starts with", low=2)
    by_gap: bool = option(False, "weigh by 1 / (sigma_i - sigma_i+1) and draw levels log-normally (improved training from data)")

    worlds = ("mixture", "digits", "mnist")
    needs = ("data",)
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, name="radam", schedule="cosine")}

    def make_student(self, teacher: Denoiser) -> Denoiser:
        return with_boundary(teacher.copy())

    def build(self) -> None:
        self.target: Denoiser = self.slow_copy(self.student, self.decay_at)

    def levels_at(self, step: int) -> int:
        """Grid size at a step: ``ceil(sqrt(k/K ((s_1 + 1)^2 - s_0^2) + s_0^2) - 1) + 1`` (section 5), or constant."""
        if not self.curriculum:
            return self.levels
        low, high = self.first_levels, self.levels - 1
        return max(1, math.ceil(math.sqrt(step / self.total * ((high + 1) ** 2 - low**2) + low**2) - 1)) + 1

    def decay_at(self, step: int) -> float:
        """Decay of the slow copy; under the curriculum ``exp(s_0 ln mu_0 / n)``."""
        if not self.curriculum or self.decay == 0:
            return self.decay
        return math.exp(self.first_levels * math.log(self.decay) / (self.levels_at(step) - 1))

    def grid(self, levels: int) -> Tensor:
        """Falling times, noisiest first; on a VE process these are the Karras levels."""
        return torch.linspace(1.0, self.process.t_min, levels)

    def student_loss(self, batch: Batch) -> Tensor:
        grid = self.grid(self.levels_at(batch.step)).to(batch.draws.device)
        i = self.draw_levels(grid, batch)
        t, u, eps = grid[i], grid[i + 1], batch.noise()
        x_t = self.process.noise(batch.data, t, eps)
        with torch.no_grad():
            target = self.answer(x_t, t, u, eps, batch)
        gap = DISTANCES[self.distance](clean(self.student, x_t, t, batch.cond), target)
        if self.by_gap:
            gap = gap / (self.process.sigma(t) - self.process.sigma(u))
        return gap.mean()

    def answer(self, x_t: Tensor, t: Tensor, u: Tensor, eps: Tensor, batch: Batch) -> Tensor:
        """The slow copy's clean end, seen from the next level down."""
        if self.source == "teacher":
            x_u = teacher_steps(self.teacher, x_t, [t, u], batch.cond)
        else:
            x_u = self.process.noise(batch.data, u, eps)
        return clean(self.target, x_u, u, batch.cond)

    def draw_levels(self, grid: Tensor, batch: Batch) -> Tensor:
        """Indices ``i`` of the noisier of two neighbouring levels, (B,)."""
        if not self.by_gap:
            return batch.draws.integers(0, len(grid) - 1)
        log_sigma = -self.process.log_snr(grid).clamp(-10, 10)
        mass = torch.erf((log_sigma + 1.1) / (2 * math.sqrt(2)))
        return batch.draws.categorical((mass[:-1] - mass[1:]).clamp_min(1e-8))

    def samplings(self) -> dict[int, Sampling]:
        ways = [self.steps, *(k for k in (1, 2, 4) if k != self.steps)]
        return {k: Sampling([*self.grid(k + 1)[:-1].tolist(), 0.0], "renoise") for k in ways}


def with_boundary(student: Denoiser) -> Denoiser:
    """Make the clean estimate at the lowest level the state itself, exactly. Velocity-like kinds have this at ``t = 0`` already."""
    if isinstance(student.kind, EDM) and student.process.t_min > 0:
        sigma_min = float(student.process.sigma(torch.tensor([student.process.t_min], dtype=torch.float64)))
        student.kind = replace(student.kind, boundary=sigma_min)
    return student
