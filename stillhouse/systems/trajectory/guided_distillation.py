"""guided_distillation: first guidance becomes an input of one network, then that network's steps are
halved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.process import expand_to
from stillhouse.parts.players.guidance_range import GuidanceInput
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.parts.targets.halving import (
    CLEAN_WEIGHTS,
    clean_weight,
    halving_lengths,
    halving_target,
    ladder,
)
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import copy_weights
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage


@dataclass
class GuidedDistillation(GuidanceInput):
    """On Distillation of Guided Diffusion Models. Meng, Rombach, Gao, Kingma, Ermon, Ho & Salimans, 2022
    (arXiv 2210.03142).

    Stage one: the target of the student, which takes ``w`` as an input, is the guided teacher's prediction by
    two evaluations, for every ``w`` of a range at once. Then its steps are halved as in progressive
    distillation, teacher and student under the same ``w``. For the stochastic sampler one more stage teaches
    the last student to jump two intervals of its grid from each of its times.
    """

    low_guidance: float = option(1.0, "smallest guidance scale (1: none)", low=0)
    high_guidance: float = option(
        4.0, "largest guidance scale; an input of the student when it varies", low=0
    )
    teacher_steps: int = option(64, "DDIM steps that the halving starts from", low=2)
    steps: int = option(2, "intervals of the last student's grid, and calls per sample", low=1)
    guidance_share: float = option(0.4, "share of the run spent on the first stage", low=0.01, high=0.99)
    stochastic: bool = option(
        False, "train for, and sample by, jumps of two intervals with one of noise back up"
    )
    weight: str = option(
        "truncated_snr", "weight of the squared error of the clean estimate", choices=CLEAN_WEIGHTS
    )

    kind = "method"
    worlds = ("mixture", "shapes")
    needs = ("teacher", "data")
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, schedule="linear", clip=1.0)}
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "the public re-implementation zju-pi/dice@3711c2f, Stable Diffusion 1.5 and SDXL; of other "
            "families and of adapters it is the nearest",
            lr={"student": 5e-5},
            options={"low_guidance": 2.0, "high_guidance": 14.0},
            run={**ADAMW, **CONSTANT, "clip": 1.0},
        ),
        "flux": Settings(
            "its scale is an input already, and trained around 3.5",
            options={"low_guidance": 3.5, "high_guidance": 3.5},
        ),
        "lora": Settings(
            "an adapter takes no scale as an input, so it learns one",
            options={"low_guidance": 7.5, "high_guidance": 7.5},
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.stochastic or self.steps >= 2,
            "The stochastic sampler jumps two intervals: its grid needs 2 steps or more.",
        )
        self.ladder = ladder(self.teacher_steps, self.steps)

    def stages(self, total: int) -> list[Stage]:
        """Guidance first; then a stage a halving, and one more for the jumps of the stochastic sampler, whose
        student takes half as many steps over all of time."""
        steps = [*self.ladder, *([self.steps // 2] if self.stochastic else [])]
        first = max(1, round(total * self.guidance_share))
        names = [*(f"{2 * n} to {n} steps" for n in self.ladder), "jumps of two intervals"]
        lengths = halving_lengths(total - first, steps)
        halvings = [
            Stage(name, length, enter=self.promote) for name, length in zip(names, lengths, strict=False)
        ]
        return [Stage("guidance as an input", first), *halvings]

    def build(self) -> None:
        require(
            self.conditional or self.high_guidance == 1,
            "Guidance moves away from the unconditional answer: it needs conditions.",
        )
        self.previous: Denoiser = self.frozen_copy(self.student, "previous")

    def promote(self) -> None:
        """The student becomes the teacher."""
        copy_weights(self.previous, self.student)

    def student_loss(self, batch: Batch) -> Tensor:
        w = batch.draws.uniform(self.low_guidance, self.high_guidance)  # one a sample
        t, middle, s = self.draw_times(batch)
        x_t = self.process.noise(batch.data, t, batch.noise())
        w_input = w if self.takes_guidance else None
        with torch.no_grad():
            if self.stage == 0:
                target = self.guided_teacher(w)(x_t, t, batch.cond).x0
            else:
                target = halving_target(self.previous, x_t, t, middle, s, batch.cond, w_input)
        gap = (predict_x0(self.student, x_t, t, batch.cond, w_input) - target) ** 2
        return (expand_to(clean_weight(self.process, t, self.weight), gap) * gap).mean()

    def guided_teacher(self, w: Tensor) -> Denoiser:
        """The target of the first stage: the teacher under guidance ``w`` (B,)."""
        return Guided(self.teacher, w)

    def draw_times(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Start, middle and end of the student's step, (B,) each; in the first stage any time, with no step
        to make.

        With the stochastic sampler's extra stage the starts are all that the sampler visits, ``1/N … 1``.
        From the last one a jump of two intervals would pass the clean end: the teacher's own step there is
        the target (a middle at the start itself).
        """
        if self.stage == 0:
            t = uniform(self.process, batch.draws)
            return t, t, t
        if self.stage > len(self.ladder):
            i, n = batch.draws.integers(1, self.steps + 1), self.steps
            ends = i, (i - 1).clamp_min(1), (i - 2).clamp_min(0)
        else:
            n = self.ladder[self.stage - 1]
            i = batch.draws.integers(1, n + 1)
            ends = i, i - 0.5, i - 1
        t, middle, s = (self.process.on_table(place / n) for place in ends)
        return t, middle, s

    def samplings(self) -> dict[int, Sampling]:
        solver = "leap" if self.stochastic else "ddim"
        guidance = self.sampling_guidance
        return {self.steps: Sampling.steps(self.process, self.steps, solver, guidance=guidance)}
