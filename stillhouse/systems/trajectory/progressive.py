"""progressive: the student learns to do in one step what its teacher does in two; then it is the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.process import expand_to
from stillhouse.parts.targets.halving import (
    CLEAN_WEIGHTS,
    clean_weight,
    halving_lengths,
    halving_target,
    ladder,
)
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method, copy_weights
from stillhouse.train.option import option
from stillhouse.train.published import PLAIN_ADAM, Published, Settings
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage


@dataclass
class Progressive(Method):
    """Progressive Distillation for Fast Sampling of Diffusion Models. Salimans & Ho, 2022 (arXiv 2202.00512,
    algorithm 2).

    The target of a student with ``N`` DDIM steps is the clean image from which *one* of its steps lands
    exactly where *two* steps of the teacher's ``2N`` land. Then the student becomes the teacher and ``N`` is
    halved.
    """

    teacher_steps: int = option(64, "DDIM steps of the first teacher", low=2)
    steps: int = option(1, "DDIM steps of the last student", low=1)
    weight: str = option(
        "truncated_snr", "weight of the squared error of the clean estimate", choices=CLEAN_WEIGHTS
    )

    kind = "method"
    worlds = ("mixture", "digits", "mnist")
    needs = ("teacher", "data")
    same_size = True
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=5e-4, schedule="linear", clip=1.0)}
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "google-research@30adf0e, config/imagenet64_distill.py; of latent models and of adapters it is "
            "the nearest",
            lr={"student": 1e-4},
            run={**PLAIN_ADAM, "schedule": "linear", "warmup": 0, "clip": 1.0, "ema": 0.0},
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ladder = ladder(self.teacher_steps, self.steps)  # the students' numbers of steps: N/2, N/4, …

    def stages(self, total: int) -> list[Stage]:
        lengths = halving_lengths(total, self.ladder)
        return [
            Stage(f"{2 * n} to {n} steps", length, enter=self.promote)
            for n, length in zip(self.ladder, lengths, strict=True)
        ]

    def build(self) -> None:
        self.previous: Denoiser = self.frozen_copy(self.student, "previous")

    def promote(self) -> None:
        """The student becomes the teacher."""
        copy_weights(self.previous, self.student)

    def student_loss(self, batch: Batch) -> Tensor:
        n = self.ladder[self.stage]
        i = batch.draws.integers(1, n + 1)
        t, middle, s = (self.process.on_table(place / n) for place in (i, i - 0.5, i - 1))
        x_t = self.process.noise(batch.data, t, batch.noise())
        with torch.no_grad():
            target = self.target(x_t, t, middle, s, batch.cond)
        gap = (predict_x0(self.student, x_t, t, batch.cond) - target) ** 2
        return (expand_to(self.weigh(t), gap) * gap).mean()

    def target(self, x_t: Tensor, t: Tensor, middle: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """What the clean estimate must be for one step to do the work of the teacher's two.

        Arguments:
            x_t: states, (B, *shape).
            t: times in [0, 1], (B,).
            middle: where the teacher's first step ends, (B,).
            s: where the second one ends, (B,).
            cond: the condition of the B rows; None for none.

        Returns:
            The target, (B, *shape).
        """
        return halving_target(self.teacher if self.stage == 0 else self.previous, x_t, t, middle, s, cond)

    def weigh(self, t: Tensor) -> Tensor:
        """Weight (B,) of the clean estimate's error at times ``t`` (B,)."""
        return clean_weight(self.process, t, self.weight)

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling.steps(self.process, self.steps, solver="ddim")}
