"""snoopi: variational score distillation under a guidance scale drawn anew in every iteration, and negative
prompts in attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, drop_condition, move, pick, size
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided, takes_guidance
from stillhouse.parts.gaps.score import surrogate_loss
from stillhouse.parts.gaps.vsd import fake_denoising, fake_times, lora_fake, vsd_gradient
from stillhouse.parts.players.guidance_range import GuidanceRange
from stillhouse.parts.players.negative import Negative
from stillhouse.parts.players.score_range import OneCallScore
from stillhouse.parts.states.backward_simulation import backward_simulation
from stillhouse.train.batch import Batch, shared
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings
from stillhouse.train.recipe import Optim


@dataclass
class Snoopi(OneCallScore, GuidanceRange):
    """SNOOPI: Supercharged One-step Diffusion Distillation with Proper Guidance. Nguyen et al., 2024 (arXiv
    2412.02687).

    Teacher and fake are guided by the same scale, drawn for each iteration from a range that reaches below 1,
    where both densities are broadened. With ``nasa`` the student also learns negative prompts: it takes their
    attention away from its own (:class:`~stillhouse.parts.players.negative.Negative`), while the teacher is
    guided away from them and the fake is never given any.
    """

    low_guidance: float = option(0.5, "least guidance scale of both scores (1: none)", low=0)
    high_guidance: float = option(4.0, "greatest guidance scale of both scores", low=0)
    nasa: float = option(
        0.0,
        "greatest weight of a negative prompt in training, drawn from 0 up (0: no negative prompts)",
        low=0,
        high=1,
    )
    rank: int = option(64, "rank of the fake's adapter on the teacher (0: a full copy)", low=0)
    lora_alpha: float = option(128.0, "the adapter's strength is this over its rank", low=0.01)
    dropout: float = option(0.1, "share of the fake's batches that drop the prompt", low=0, high=1)

    kind = "method"
    worlds = ("mixture", "shapes")
    needs = ("teacher",)
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=5e-4, name="adamw", clip=1.0),
        "fake": Optim(lr=1e-3, name="adamw", clip=1.0),
    }
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "SNOOPI (2412.02687), section 6.1; clipping and schedule are not stated: those of SwiftBrush; of"
            " adapters it is the nearest",
            lr={"student": 1e-6, "fake": 1e-3},
            run={**ADAMW, **CONSTANT, "clip": 1.0},
        ),
        "pixart": Settings("PixArt-alpha: scales from 0.5 to 3", options={"high_guidance": 3.0}),
    }
    negatives: ClassVar[Condition] = (
        None  # set it to draw negative prompts from these rows, and not from the run's own prompts
    )

    def build(self) -> None:
        require(
            not self.nasa or not takes_guidance(self.teacher),
            "The teacher takes the guidance scale as an input: there is no second estimate for the negative "
            "prompts that `nasa` learns.",
        )
        self.fake: Denoiser = self.player(
            "fake", lora_fake(self.teacher, self.student, self.rank, self.lora_alpha)
        )

    def turns(self, step: int) -> list[str]:
        # a fake that has not moved yet is the teacher, and pulls nowhere
        return ["student", "fake"] if step else ["fake"]

    def scale(self, batch: Batch) -> float:
        """The iteration's guidance scale."""
        return batch.stream("guidance").one_uniform(self.low_guidance, self.high_guidance)

    def negative(self, batch: Batch) -> tuple[Condition, float]:
        """The iteration's negative prompts, one a row, and their weight: the same for every player."""
        draws = batch.stream("negative")
        weight = draws.one_uniform(0.0, self.nasa)
        if self.negatives is not None:
            return move(
                pick(self.negatives, draws.integers(0, size(self.negatives) or 1)), draws.device
            ), weight
        shift = draws.one_integer(1, max(2, batch.rows))
        return pick(batch.cond, (torch.arange(batch.rows) + shift) % batch.rows), weight

    @shared
    def samples(self, batch: Batch) -> Tensor:
        """One-step samples of the student, (rows, *shape), under negative prompts where there are any."""
        student = Negative(self.student, *self.negative(batch)) if self.nasa else self.student
        return backward_simulation(student, [self.first_time], batch.draws, batch.cond, batch.shape)

    def student_loss(self, batch: Batch) -> Tensor:
        x, scale = self.samples(batch), self.scale(batch)
        real = Guided(self.teacher, scale, self.negative(batch)[0] if self.nasa else None)
        t = self.score_times(batch)
        return surrogate_loss(
            x, vsd_gradient(x, t, batch.noise(), real, Guided(self.fake, scale), batch.cond)
        )

    def fake_loss(self, batch: Batch) -> Tensor:
        cond = drop_condition(batch.cond, batch.draws.one_uniform() < self.dropout)
        learner = Guided(self.fake, self.scale(batch)).learner
        return fake_denoising(
            learner, self.samples(batch), fake_times(self.process, batch.draws), batch.noise(), cond
        )
