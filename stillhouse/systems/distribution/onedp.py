"""onedp: a policy's chunk of actions in one call, moved by the teacher's score; stochastic with a fake score,
or deterministic without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.prediction import At
from stillhouse.parts.gaps.score import difference, fake_for, noise_share, surrogate_loss
from stillhouse.parts.players.score_range import OneCallScore
from stillhouse.parts.states.backward_simulation import backward_simulation
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.simple import Renoise
from stillhouse.train.batch import Batch, shared
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim


@dataclass
class OneDP(OneCallScore):
    """One-Step Diffusion Policy: Fast Visuomotor Policies via Diffusion Distillation. Wang et al., 2024
    (arXiv 2410.21257).

    Only observations are needed, not what the expert did. ``stochastic``: noise in, and samples move down the
    reverse KL at every noise level, by the teacher's score minus that of a fake which keeps learning them.
    ``deterministic``: nothing in, one answer an observation; its diffused score is known, so that there is no
    fake, and the answer climbs to one of the teacher's modes.
    """

    form: str = option(
        "stochastic",
        "noise in and both ways out, or one answer an observation",
        choices=("stochastic", "deterministic"),
    )
    fake_per_student: int = option(1, "updates of the fake score per update of the student", low=1)
    score_t_max: float = option(0.95, "where these times end: near 1 every answer is the mean", low=0, high=1)

    kind = "method"
    worlds = ("control",)
    needs = ("teacher",)
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=3e-4, clip=1.0),
        "fake": Optim(lr=1e-3, clip=1.0),
    }

    @property
    def noisy(self) -> bool:
        """Whether noise goes in."""
        return self.form == "stochastic"

    def build(self) -> None:
        if self.noisy:
            self.fake: Denoiser = self.player("fake", fake_for(self.teacher, self.student))

    def turns(self, step: int) -> list[str]:
        if not self.noisy:
            return ["student"]
        # the fake first: a copy of the teacher that has learned nothing yet pulls nowhere
        return ["fake", "student"] if (step + 1) % self.fake_per_student == 0 else ["fake"]

    @shared
    def actions(self, batch: Batch) -> Tensor:
        """``A = G(z, o)`` of one call, or ``G(0, o)``."""
        if self.noisy:
            return backward_simulation(self.student, [self.first_time], batch.draws, batch.cond, batch.shape)
        nothing = torch.zeros(batch.rows, *batch.shape, device=self.student.device)
        return rollout(self.student, nothing, [self.first_time, 0.0], Renoise(), batch.cond)

    def student_loss(self, batch: Batch) -> Tensor:
        actions = self.actions(batch)
        t, eps = self.score_times(batch), batch.noise()
        gap, pred = difference(actions, t, eps, self.teacher, self.fake if self.noisy else None, batch.cond)
        return surrogate_loss(actions, self.weight(pred.at) * gap)

    def weight(self, at: At) -> Tensor:
        """``w(t) = sigma^2`` on the scores' difference: ``sigma alpha (eps_real - eps_own) = alpha^2 (D_own -
        D_real)``.

        ``alpha^2`` is that of the variance-preserving process of equal signal-to-noise. A deterministic
        student depends on it: with more weight at high noise, where the teacher answers the mean of all ways,
        it settles between them.
        """
        return 1 - noise_share(at)

    def fake_loss(self, batch: Batch) -> Tensor:
        t = self.score_times(batch)
        return denoising_loss(self.fake, self.actions(batch), t, batch.noise(), batch.cond)

    def samplings(self) -> dict[int, Sampling]:
        return {1: Sampling([self.first_time, 0.0], "renoise", start=None if self.noisy else 0.0)}
