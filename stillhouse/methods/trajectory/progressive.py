"""progressive: the student learns to do in one step what its teacher does in two; then it is the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.conditions import Condition
from stillhouse.denoiser import Denoiser, Eps, Score
from stillhouse.errors import require
from stillhouse.flowmap import clean, land
from stillhouse.process import like
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.method import Batch, Method, copy_weights, option
from stillhouse.train.recipe import Optim


@dataclass
class Progressive(Method):
    """Progressive Distillation for Fast Sampling of Diffusion Models. Salimans & Ho, 2022 (arXiv 2202.00512, algorithm 2).

    A student with ``N`` DDIM steps is asked for the clean image from which *one* of its steps lands exactly where *two* steps
    of the teacher's ``2N`` land. Then the student becomes the teacher and ``N`` is halved.
    """

    teacher_steps: int = option(64, "DDIM steps of the first teacher", low=2)
    steps: int = option(1, "DDIM steps of the last student", low=1)
    weight: str = option(
        "truncated_snr", "weight of the squared error of the clean estimate", choices=("truncated_snr", "snr_plus_one", "one")
    )

    worlds = ("mixture", "digits", "mnist")
    needs = ("data", "same-size")
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=5e-4, schedule="linear", clip=1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio = self.teacher_steps / self.steps
        require(
            ratio >= 2 and ratio.is_integer() and (int(ratio) & (int(ratio) - 1)) == 0,
            f"Halving leads from {self.teacher_steps} steps to {self.steps} only if one is the other times 2, 4, 8 …",
        )

    @property
    def ladder(self) -> list[int]:
        """The students' numbers of steps: N/2, N/4, …"""
        return [self.teacher_steps >> k for k in range(1, (self.teacher_steps // self.steps).bit_length())]

    def stages(self, total: int) -> list[int]:
        shares = [2 if n <= 2 else 1 for n in self.ladder]  # the last halvings are the hard ones
        lengths = [max(1, total * share // sum(shares)) for share in shares]
        lengths[-1] += total - sum(lengths)
        require(lengths[-1] > 0, f"{total} iterations are too few for {len(shares)} halvings.")
        return lengths

    def build(self) -> None:
        blind = isinstance(self.student.kind, Eps | Score) and float(self.process.alpha(torch.ones(1))) < 1e-3
        require(
            not blind,
            "Pure noise holds no clean image, so a student that says the noise can't start there; use a velocity, v or x0 network.",
        )
        self.previous: Denoiser = self.frozen_copy(self.student, "previous")

    def enter(self, stage: int) -> None:
        copy_weights(self.previous, self.student)

    def student_loss(self, batch: Batch) -> Tensor:
        n = self.ladder[self.stage]
        i = batch.draws.integers(1, n + 1)
        t, middle, s = i / n, (i - 0.5) / n, (i - 1) / n
        x_t = self.process.noise(batch.data, t, batch.noise())
        with torch.no_grad():
            target = self.target(x_t, t, middle, s, batch.cond)
        gap = (clean(self.student, x_t, t, batch.cond) - target) ** 2
        return (like(self.weigh(t), gap) * gap).mean()

    def target(self, x_t: Tensor, t: Tensor, middle: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """The ``x0`` whose one DDIM step from ``x_t`` lands on ``x_s``, where two steps of the teacher arrive.

        A DDIM step adds ``(r_s - r_t) D`` to ``x / sigma``, with ``r = alpha / sigma``. So ``(x_s - (sigma_s / sigma_t) x_t) /
        (alpha_s - (sigma_s / sigma_t) alpha_t)`` is a mean of the teacher's two answers, weighted by what ``r`` gains in each half;
        in this form nothing cancels, and at ``s = 0``, where ``r`` is infinite, it is the second answer.
        """
        teacher = self.teacher if self.stage == 0 else self.previous
        first = teacher(x_t, t, cond)
        second = teacher(land(first, middle), middle, cond)
        r_t, r_middle, r_s = (self.process.alpha(v) / self.process.sigma(v) for v in (t, middle, s))
        return second.x0 + like((r_middle - r_t) / (r_s - r_t), x_t) * (first.x0 - second.x0)

    def weigh(self, t: Tensor) -> Tensor:
        """Weight of the clean estimate's error, the signal-to-noise ratio bounded at 400."""
        if self.weight == "one":
            return torch.ones_like(t)
        snr = torch.exp(2 * self.process.log_snr(t).clamp(max=3.0))
        return snr.clamp_min(1) if self.weight == "truncated_snr" else snr + 1

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling.steps(self.process, self.steps, solver="ddim")}
