"""lora_distill: guidance folded into a small adapter on the teacher's own weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.adapters import TARGETS, Adapted, adapted
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided, takes_guidance
from stillhouse.parts.states.time_sampler import TIME_SAMPLERS, time_sampler
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings
from stillhouse.train.recipe import Optim


@dataclass
class LoraDistill(Method):
    """LoRA-Enhanced Distillation on Guided Diffusion Models. Golnari, 2023 (arXiv 2312.06899).

    Teacher and student are one set of frozen weights, with a low-rank adapter off or on. One conditional
    evaluation with it on learns to match two evaluations under guidance with it off, in the network's own
    output. No second model is held, and the product is a small file: guidance at the price of none, at any
    number of steps, with any solver.
    """

    guidance: float = option(7.5, "the guidance scale to fold in (1: none)", low=0)
    rank: int = option(4, "rank of the adapter, where the run itself has set none", low=1)
    targets: str = option(
        "attention", "layers with an adapter; every linear one where there is no attention", choices=TARGETS
    )
    time_sampler: str = option("uniform", "law of the training times", choices=tuple(TIME_SAMPLERS))
    steps: int = option(50, "default number of steps per sample", low=1)
    solver: str = option("dpm++", "default solver of the student", choices=("dpm++", "unipc", "ddim", "heun"))

    kind = "method"
    worlds = ("shapes", "mixture")
    needs = ("teacher", "data")
    free_steps = True
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=1e-3, name="adamw", weight_decay=1e-2, clip=1.0)}
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "microsoft/DeepSpeedExamples@1c6f989, Stable Diffusion 2.1; of other families it is the nearest",
            lr={"student": 5e-6},
            run={**ADAMW, **CONSTANT, "clip": 1.0},
        ),
    }

    def make_student(self, teacher: Denoiser) -> Denoiser:
        base = teacher if isinstance(teacher, Adapted) else adapted(teacher, self.rank, targets=self.targets)
        return base.copy()

    def build(self) -> None:
        require(
            isinstance(self.student, Adapted),
            "The student is an adapter on the teacher's weights; give no network of your own.",
        )
        require(self.conditional, "Guidance moves away from the unconditional answer: it needs conditions.")
        require(
            not takes_guidance(self.teacher),
            "The teacher takes the guidance scale as an input: there is no second evaluation to save.",
        )
        self.guide = self.guided_teacher()

    def guided_teacher(self) -> Denoiser:
        """The target's denoiser: the same weights without the adapter, under guidance."""
        assert isinstance(self.student, Adapted)
        return Guided(self.student.off, self.guidance)

    def student_loss(self, batch: Batch) -> Tensor:
        t = time_sampler(self.time_sampler, self.process, batch.draws)
        x_t = self.process.noise(batch.data, t, batch.noise())
        with torch.no_grad():
            target = self.guide(x_t, t, batch.cond).raw
        return (self.student(x_t, t, batch.cond).raw.float() - target.float()).square().mean()

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling.steps(self.process, self.steps, solver=self.solver)}
