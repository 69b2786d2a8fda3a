"""ibmd: a generator whose own bridge would be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stillhouse.core.bridge import Bridge
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.errors import require
from stillhouse.parts.gaps.score import fake_for
from stillhouse.parts.players.score_range import ScoreRange
from stillhouse.parts.states.backward_simulation import backward_simulation, student_grid
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.bridge import Posterior
from stillhouse.train.batch import Batch
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim


@dataclass
class IBMD(ScoreRange):
    """Inverse Bridge Matching Distillation. Gushchin et al., 2025 (arXiv 2502.01362).

    Bridge matching on pairs (x_0, x_1) learns ``E[x_0 | x_t]``. Which ``p(x_0 | x_1)`` would have given the
    teacher? The one that the generator ``G(x_1, z)`` has when ``E |D_teacher(x_t) - E_student[x_0 | x_t]|^2 =
    0``, and this distance is

        ``E |D_teacher(x_t) - x_0|^2 - min_D E |D(x_t) - x_0|^2``,    ``x_0 = G(x_1, z)``, ``x_t`` on the
        bridge between the two.

    An auxiliary bridge keeps up with the minimum. The generator learns samples that the teacher recognises
    (first part) and that ``x_t`` determines little (second part), without which every ``x_1`` has one answer.
    Nothing is stopped: the gradient also passes through ``x_t`` into both networks. Learns from degraded
    samples alone. A teacher that is not conditioned on ``x_1`` (:func:`stillhouse.core.bridge.unconditional`)
    has an auxiliary that is not, either.
    """

    steps: int = option(1, "calls of the student per sample", low=1)
    noise: float = option(
        1.0, "deviation of the noise z that the student is shown on top of its state", low=0
    )
    fake_per_student: int = option(4, "updates of the auxiliary bridge per update of the student", low=1)
    spread: float = option(1.0, "weight of the part that keeps diversity (1: the exact distance)", low=0)

    kind = "method"
    worlds = ("mixture", "photos")
    needs = ("teacher",)
    processes = ("bridge",)
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=5e-4, betas=(0.0, 0.99), clip=10.0),
        "fake": Optim(lr=1e-3, betas=(0.0, 0.99), clip=10.0),
    }

    def build(self) -> None:
        require(
            isinstance(self.process, Bridge),
            f"IBMD distils bridges, not models of the process '{self.process.name}'.",
        )
        self.fake: Denoiser = self.player("fake", fake_for(self.teacher, self.student))
        if isinstance(self.teacher, ExactDenoiser):
            self.fake.call = self.teacher.call  # its inputs are the teacher's

    def turns(self, step: int) -> list[str]:
        return ["fake", "student"] if step % self.fake_per_student == 0 else ["fake"]

    @property
    def times(self) -> list[float]:
        """Falling times of the student's calls."""
        return student_grid(self.process, 1.0, self.steps)

    def samples(self, batch: Batch) -> Tensor:
        """The student's samples, (rows, *shape), by a call at a state that its own sampler meets; which call
        is drawn in each iteration."""
        k = batch.stream("depth").one_integer(1, self.steps + 1)  # one for the whole batch and all processes
        return backward_simulation(
            self.student, self.times[:k], batch.draws, batch.cond, batch.shape, Posterior(self.noise)
        )

    def fake_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)  # the student is not learning now: no graph
        return denoising_loss(self.fake, x, self.between(batch), batch.noise(), batch.cond)

    def student_loss(self, batch: Batch) -> Tensor:
        x, t = self.samples(batch), self.between(batch)
        x_t = self.process.noise(x, t, batch.noise())
        d_real, d_fake = self.teacher(x_t, t, batch.cond).x0, self.fake(x_t, t, batch.cond).x0
        return self.gap(x, d_real, d_fake).mean()

    def gap(self, x: Tensor, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """``(D_teacher - x)^2 - spread (D_fake - x)^2``, elementwise. It may be negative.

        Arguments:
            x: the student's samples, (B, *shape).
            d_real: the teacher's clean estimate, (B, *shape).
            d_fake: the auxiliary bridge's clean estimate, (B, *shape).

        Returns:
            Losses, (B, *shape).
        """
        return (d_real - x) ** 2 - self.spread * (d_fake - x) ** 2

    def between(self, batch: Batch) -> Tensor:
        """Times (rows,) on the bridge between sample and degraded picture."""
        return self.score_times(batch)

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling([*self.times, 0.0], Posterior(self.noise).config())}
