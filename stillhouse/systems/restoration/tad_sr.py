"""tad_sr: the teacher's whole walk in one call, corrected where a lightly noised teacher sees detail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.errors import require
from stillhouse.parts.gaps.critic import discriminator_loss, generator_loss
from stillhouse.parts.gaps.time_critic import TimedCritic
from stillhouse.parts.states.backward_simulation import backward_simulation
from stillhouse.parts.targets.teacher import teacher_steps
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.grids import make_grid
from stillhouse.train.batch import Batch, shared
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.recipe import Optim


def detail(
    x: Tensor, reference: Tensor, t: Tensor, eps: Tensor, teacher: Denoiser, cond: Condition = None
) -> Tensor:
    """Where ``x`` should go *down*: the noise that the teacher predicts in it less the one it predicts in
    ``reference``, noised alike.

    Without gradient; 0 at ``x = reference``.

    Arguments:
        x: the student's samples, (B, *shape).
        reference: the teacher's, (B, *shape).
        t: times in [0, 1], (B,).
        eps: standard normal noise, (B, *shape).
        teacher: the denoiser that predicts the noises.
        cond: the condition of the B rows; None for none.

    Returns:
        The gradient, (B, *shape).
    """
    with torch.no_grad():
        a, b = (teacher(teacher.process.noise(u, t, eps), t, cond) for u in (x, reference))
        return a.eps - b.eps


@dataclass
class TADSR(Method):
    """One Step Diffusion-based Super-Resolution with Time-Aware Distillation. He et al., 2024 (arXiv
    2408.07476).

    From one noisy state around the degraded image the student's one call, ``x``, regresses onto what the
    teacher reaches by ``steps`` deterministic ones, ``x'``. Two more forces act where regression is dull.
    *High-frequency score distillation*: both are noised alike to one of the smallest levels, and ``x`` moves
    along the difference of the noises that the teacher predicts in them, ``alpha ((x - x') - (D(x_t) -
    D(x'_t))) / sigma``: what a lightly noised teacher treats as detail; nothing where ``x = x'``. And a
    critic on the teacher's encoder, conditioned on the noise level of what it judges, compares ``x`` with
    real images.
    """

    steps: int = option(15, "steps of the teacher's walk, and number of noise levels", low=2)
    levels: int = option(
        3, "how many of these levels, the smallest, the score distillation draws from", low=1
    )
    hsd_weight: float = option(1.0, "weight of the high-frequency score distillation (0: none)", low=0)
    gan_weight: float = option(
        0.02, "weight of the critic in the student's loss (0: no critic, no data)", low=0
    )
    maps: int = option(64, "logits of the critic at each place", low=1)
    time_aware: bool = option(True, "whether the critic takes the noise level")

    kind = "method"
    worlds = ("mixture", "photos")
    needs = ("teacher", "data unless gan_weight=0")
    processes = ("bridge",)
    optim: ClassVar[dict[str, Optim]] = {
        "critic": Optim(lr=5e-5, name="adamw"),
        "student": Optim(lr=5e-5, name="adamw"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.levels <= self.steps,
            f"TADSR option 'levels' is at most 'steps', {self.steps}, not {self.levels}.",
        )

    def build(self) -> None:
        self.grid = make_grid(
            "uniform", self.process, self.steps
        )  # falls from 1 to 0; the level of step i is i + 1 places from its end
        if self.gan_weight:
            closed = isinstance(self.teacher, ExactDenoiser)
            require(
                not closed, "A closed-form teacher has no features for a critic to read; set gan_weight to 0."
            )
            self.critic = self.player(
                "critic", TimedCritic(self.teacher, self.shape, self.maps, self.time_aware)
            )

    def turns(self, step: int) -> list[str]:
        return [*(["critic"] if self.gan_weight else []), "student"]

    def level(self, batch: Batch, name: str, below: int) -> tuple[Tensor, Tensor]:
        """One of the smallest noise levels of the grid and noise for it, the same for every player of an
        iteration.

        Arguments:
            batch: gives the source of randomness.
            name: of the stream; equal names give equal levels and noise.
            below: how many levels are drawn from, the smallest of the grid without 0.

        Returns:
            Times (rows,) and standard normal noise (rows, *shape).
        """
        draws = batch.stream(name)
        times = self.grid.flip(0).to(draws.device)
        return times[1 + draws.integers(0, below)].float(), draws.normal(*batch.shape)

    @shared
    def samples(self, batch: Batch) -> Tensor:
        """One-step samples of the student, (rows, *shape)."""
        return backward_simulation(self.student, [1.0], batch.stream("start"), batch.cond, batch.shape)

    def critic_loss(self, batch: Batch) -> Tensor:
        return discriminator_loss(
            self.logits(batch.data, batch), self.logits(self.samples(batch), batch), kind="hinge"
        )

    def student_loss(self, batch: Batch) -> Tensor:
        x = self.samples(batch)
        target = self.target(batch)
        loss = (x - target).square().mean()
        batch.log("regression", loss)
        if self.hsd_weight:
            t, eps = self.level(batch, "detail", self.levels)
            loss = loss + self.hsd_weight * (detail(x, target, t, eps, self.teacher, batch.cond) * x).mean()
        if self.gan_weight:
            loss = loss + self.gan_weight * generator_loss(self.logits(x, batch), kind="hinge")
        return loss

    def target(self, batch: Batch) -> Tensor:
        """Where the teacher's steps lead from the state that the student is given."""
        start = self.process.start(batch.stream("start"), batch.shape)
        times = [t.expand(batch.rows) for t in self.grid.to(start.device)]
        return teacher_steps(self.teacher, start, times, batch.cond, DDIM())

    def logits(self, x: Tensor, batch: Batch) -> Tensor:
        """The critic's logits, at any level but the last.

        Arguments:
            x: clean samples, (B, *shape), which are noised to that level.
            batch: gives level, noise and condition.

        Returns:
            Logits, (B, logits), positive for real.
        """
        t, eps = self.level(batch, "judge", self.steps - 1)
        return self.critic(self.teacher, self.process.noise(x, t, eps), t, batch.cond)

    def samplings(self) -> dict[int, Sampling]:
        return {1: Sampling([1.0, 0.0], "renoise")}
