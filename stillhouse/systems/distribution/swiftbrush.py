"""swiftbrush: variational score distillation from prompts alone; an adapter on the teacher is the student's
score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stillhouse.core.conditions import drop_condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.guidance import Guided
from stillhouse.parts.gaps.score import surrogate_loss
from stillhouse.parts.gaps.vsd import fake_denoising, fake_times, lora_fake, vsd_gradient
from stillhouse.parts.players.score_range import OneCallScore
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.published import CONSTANT, PLAIN_ADAM, Published, Settings
from stillhouse.train.recipe import Optim


@dataclass
class SwiftBrush(OneCallScore):
    """SwiftBrush: One-Step Text-to-Image Diffusion Model with Variational Score Distillation. Nguyen & Tran,
    2023 (arXiv 2312.05239).

    The student's samples follow the teacher's score minus their own, which a low-rank adapter on the frozen
    teacher keeps learning from them. Both scores are guided, by the same scale. Prompts are all that it
    needs.
    """

    guidance: float = option(4.5, "guidance scale of both scores, teacher and fake (1: none)", low=0)
    rank: int = option(64, "rank of the fake's adapter on the teacher (0: a full copy)", low=0)
    lora_alpha: float = option(108.0, "the adapter's strength is this over its rank", low=0.01)
    dropout: float = option(0.1, "share of the fake's batches that drop the prompt", low=0, high=1)
    score_t_max: float = option(0.981, "last time at which the scores are compared", low=0, high=1)

    kind = "method"
    worlds = ("mixture", "shapes")
    needs = ("teacher",)
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=5e-4, clip=1.0),
        "fake": Optim(lr=1e-3, clip=1.0),
    }
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "VinAIResearch/SwiftBrush@686c231, Stable Diffusion 2.1; of other families it is the nearest",
            lr={"student": 1e-6, "fake": 1e-3},
            run={**PLAIN_ADAM, **CONSTANT, "clip": 1.0},
        ),
        "lora": Settings(
            "LoRA: SwiftBrush v2 (2408.14176), section 5.1, whose rate is not stated apart",
            run={"lora": 256, "lora_alpha": 512.0},
        ),
    }

    def build(self) -> None:
        self.fake: Denoiser = self.player(
            "fake", lora_fake(self.teacher, self.student, self.rank, self.lora_alpha)
        )
        self.real: Denoiser = Guided(self.teacher, self.guidance)
        self.own: Denoiser = Guided(self.fake, self.guidance)

    def turns(self, step: int) -> list[str]:
        # a fake that has not moved yet is the teacher, and pulls nowhere
        return ["student", "fake"] if step else ["fake"]

    def student_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)
        return surrogate_loss(
            x,
            self.vsd_gradient(
                x,
                self.score_times(batch),
                batch.noise(),
                batch,
            ),
        )

    def vsd_gradient(self, x: Tensor, t: Tensor, eps: Tensor, batch: Batch) -> Tensor:
        """The difference of scores along which the samples move.

        Arguments:
            x: the student's samples, (B, *shape).
            t: times in [0, 1], (B,).
            eps: standard normal noise, (B, *shape).
            batch: gives the condition.

        Returns:
            The gradient, (B, *shape).
        """
        return vsd_gradient(x, t, eps, self.real, self.own, batch.cond)

    def fake_loss(self, batch: Batch) -> Tensor:
        cond = drop_condition(batch.cond, batch.draws.one_uniform() < self.dropout)
        learner = Guided(self.fake, self.guidance).learner
        return fake_denoising(
            learner, self.samples(batch), fake_times(self.process, batch.draws), batch.noise(), cond
        )
