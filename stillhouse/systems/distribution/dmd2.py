"""dmd2: two scores pull the student's samples, a critic on real data sharpens them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.guidance import Guided
from stillhouse.parts.gaps.critic import discriminator_loss, features, generator_loss, head_for
from stillhouse.parts.gaps.score import dmd_gradient, fake_for, surrogate_loss
from stillhouse.parts.players.score_range import SCORE_OPTIM, OneCallScore
from stillhouse.parts.states.backward_simulation import backward_simulation, student_grid
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch, shared
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings


@dataclass
class DMD2(OneCallScore):
    """Improved Distribution Matching Distillation for Fast Image Synthesis. Yin et al., 2024 (arXiv
    2405.14867).

    The student's samples move along the difference of two scores, the teacher's and that of a fake-score
    network which keeps up with them by moving more often (two time-scale update rule). A few-step student
    learns at the states that its own sampling meets (backward simulation). A critic on the fake's features,
    fed with real data, lets it pass its teacher.
    """

    steps: int = option(1, "calls of the student per sample", low=1)
    unit_noise: bool = option(
        False,
        "the first call's input is noise of deviation 1 whatever its time, as of the published one-step SDXL "
        "(first_time=0.4)",
    )
    fake_per_student: int = option(5, "updates of the fake score per update of the student", low=1)
    guidance: float = option(1.0, "teacher guidance scale (1: none)", low=0)
    gan_weight: float = option(
        5e-3, "weight of the critic in the student's loss (0: no critic, no data)", low=0
    )
    critic_weight: float = option(1e-2, "weight of the critic's own loss beside the fake's", low=0)

    kind = "method"
    worlds = ("mixture", "digits", "mnist", "shapes")
    needs = ("teacher", "data unless gan_weight=0")
    optim = SCORE_OPTIM
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "tianweiy/DMD2@8d8fa55, experiments/sdv1.5 (first phase); of other families it is the nearest",
            lr={"student": 1e-5, "fake": 1e-5},
            run={**ADAMW, **CONSTANT, "warmup": 8, "clip": 10.0},  # 500 over 64 processes
        ),
        "sd": Settings(
            "guidance and the critic's weight of experiments/sdv1.5",
            options={"guidance": 1.75, "gan_weight": 1e-3, "fake_per_student": 10},
        ),
        "sdxl": Settings(
            "experiments/sdxl, four steps",
            lr={"student": 5e-7, "fake": 5e-7},
            options={"steps": 4, "guidance": 8.0, "gan_weight": 5e-3, "fake_per_student": 5},
        ),
        "flux": Settings(
            "NVlabs/FastGen@34f30e8, Flux/config_dmd2: the embedded scale",
            options={"steps": 4, "guidance": 3.5, "gan_weight": 0.03},
            run={"warmup": 0},
        ),
        "wan": Settings(
            "NVlabs/FastGen@34f30e8, WanT2V/config_dmd2, 1.3B",
            options={"steps": 4, "guidance": 5.0, "gan_weight": 0.03},
            run={"warmup": 0},
        ),
        "edm": Settings(
            "experiments/imagenet, with the critic from the start",
            lr={"student": 2e-6, "fake": 2e-6},
            options={"gan_weight": 3e-3},
        ),
        "lora": Settings(
            "LoRA: experiments/sdxl, rank 64 and alpha 8, where the fake stays a whole network",
            lr={"student": 5e-5, "fake": 5e-5},
            run={"lora": 64, "lora_alpha": 8.0, "lora_targets": "blocks"},
        ),
    }

    def build(self) -> None:
        self.real = Guided(self.teacher, self.guidance)
        self.fake: Denoiser = self.player("fake", fake_for(self.teacher, self.student))
        if self.gan_weight:
            self.head = self.player("fake", head_for(self.fake, self.shape))

    def turns(self, step: int) -> list[str]:
        return ["student", "fake"] if step % self.fake_per_student == 0 else ["fake"]

    @property
    def times(self) -> list[float]:
        """Falling times of the student's calls."""
        return student_grid(self.process, self.first_time, self.steps)

    @property
    def first_noise(self) -> float | None:
        """Standard deviation of the noise that the student begins with; None: that of its first time."""
        return 1.0 if self.unit_noise else None

    @shared
    def samples(self, batch: Batch) -> Tensor:
        """Samples of the student by one to ``steps`` calls, (rows, *shape); how many is drawn in each
        iteration."""
        k = batch.stream("depth").one_integer(1, self.steps + 1)  # one for the whole batch and all processes
        return backward_simulation(
            self.student, self.times[:k], batch.draws, batch.cond, batch.shape, std=self.first_noise
        )

    def student_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)
        g = dmd_gradient(
            x,
            self.score_times(batch),
            batch.noise(),
            self.real,
            self.fake,
            batch.cond,
        )
        loss = surrogate_loss(x, g)
        if self.gan_weight:
            adversarial = generator_loss(self.logits(x, batch))
            batch.log("generator", adversarial)
            loss = loss + self.gan_weight * adversarial
        return loss

    def fake_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)
        loss = denoising_loss(self.fake, x, uniform(self.process, batch.draws), batch.noise(), batch.cond)
        if self.gan_weight:
            critic = discriminator_loss(self.logits(batch.data, batch), self.logits(x, batch))
            batch.log("critic", critic)
            loss = loss + self.critic_weight * critic
        return loss

    def logits(self, x: Tensor, batch: Batch) -> Tensor:
        """The critic's logits, read off the fake's middle features.

        Arguments:
            x: clean samples, (B, *shape), each of which is noised to a time of its own.
            batch: gives times, noise and condition.

        Returns:
            Logits, (B,), positive for real.
        """
        t = uniform(self.process, batch.draws)
        return self.head(features(self.fake, self.process.noise(x, t, batch.noise()), t, batch.cond))

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling([*self.times, 0.0], "renoise", start=self.first_noise)}
