"""dmd: a score difference moves the student's distribution, stored teacher pairs keep its layout."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.parts.gaps.distances import DISTANCES
from stillhouse.parts.gaps.perceptual import find_perceptual
from stillhouse.parts.gaps.score import dmd_gradient, fake_for, surrogate_loss
from stillhouse.parts.players.score_range import SCORE_OPTIM, OneCallScore
from stillhouse.parts.states.pairs import teacher_pairs
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.published import ADAMW, CONSTANT, Published, Settings


@dataclass
class DMD(OneCallScore):
    """One-step Diffusion with Distribution Matching Distillation. Yin et al., 2023 (arXiv 2311.18828,
    algorithm 1).

    The student's samples move towards where the teacher's score pulls them and away from where their own does
    (reverse KL at every noise level). Regression on a small set of noise-image pairs of the teacher keeps all
    modes in place.
    """

    guidance: float = option(1.0, "teacher guidance scale (1: none), in the score and in the pairs", low=0)
    pairs: int = option(512, "stored teacher pairs", low=0)
    pair_steps: int = option(0, "Heun steps of a pair's trajectory (0: adaptive, tolerance 1e-5)", low=0)
    regression_weight: float = option(0.25, "weight of the regression on pairs", low=0)
    matching_weight: float = option(1.0, "weight of the score difference", low=0)
    distance: str = option("l2", "distance of the regression", choices=tuple(DISTANCES))
    perceptual: Any = option(
        None,
        "perceptual distance in the place of `distance`: FILE.py:NAME of a module m(a, b) -> (B,) on "
        "pictures "
        "in [-1, 1] (latents of a latent teacher), or in Python such a module",
        code=True,
    )
    fake_per_student: int = option(1, "updates of the fake score per update of the student", low=1)

    kind = "method"
    worlds = ("mixture", "digits", "mnist")
    needs = ("teacher",)
    optim = SCORE_OPTIM
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "DMD (2311.18828), appendix B.3, Stable Diffusion 1.5 at guidance 3; of other families and of "
            "adapters it is the nearest",
            lr={"student": 1e-5, "fake": 1e-5},
            options={"guidance": 3.0},
            run={**ADAMW, **CONSTANT, "warmup": 7, "clip": 10.0},  # 500 over 72 processes
        ),
        "edm": Settings(
            "appendix B.2, ImageNet-64",
            lr={"student": 2e-6, "fake": 2e-6},
            options={"guidance": 1.0},
            run={"warmup": 71},  # 500 over 7 processes
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gap = DISTANCES[self.distance] if self.perceptual is None else find_perceptual(self.perceptual)

    def describe(self) -> dict[str, Any]:
        """A module that was given in Python is described by its name alone."""
        made = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.perceptual is not None and not isinstance(self.perceptual, str):
            made["perceptual"] = type(self.perceptual).__name__
        return {"method": "dmd", "options": made}

    def build(self) -> None:
        self.real = Guided(self.teacher, self.guidance)
        self.fake: Denoiser = self.player("fake", fake_for(self.teacher, self.student))

    @property
    def bank_size(self) -> int:
        return self.pairs if self.regression_weight else 0

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        return teacher_pairs(self.real, self.shape, draws, cond, self.pair_steps)

    def turns(self, step: int) -> list[str]:
        return ["student", "fake"] if step % self.fake_per_student == 0 else ["fake"]

    def student_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)
        loss = self.matching_weight * surrogate_loss(x, self.matching_gradient(x, batch))
        return loss + self.regression_weight * self.regression(batch) if self.bank_size else loss

    def matching_gradient(self, x: Tensor, batch: Batch) -> Tensor:
        """The difference of scores along which the samples move.

        Arguments:
            x: the student's samples, (B, *shape).
            batch: gives times, noise and condition.

        Returns:
            The gradient, (B, *shape).
        """
        return dmd_gradient(
            x,
            self.score_times(batch),
            batch.noise(),
            self.real,
            self.fake,
            batch.cond,
        )

    def regression(self, batch: Batch) -> Tensor:
        """The distance of the student's samples to the teacher's, of the same stored noise; a scalar."""
        pair = batch.stored()
        t = pair["eps"].new_full((batch.rows,), self.first_time)
        x = predict_x0(self.student, pair["eps"] * float(self.process.sigma(t[:1])), t, pair.get("cond"))
        return self.gap(x, pair["x"]).mean()

    def fake_loss(self, batch: Batch) -> Tensor:
        return denoising_loss(
            self.fake, self.samples(batch), uniform(self.process, batch.draws), batch.noise(), batch.cond
        )
