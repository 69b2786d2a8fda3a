"""ctm: jumps from any time to any earlier time on the teacher's path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.flowmap import jump
from stillhouse.parts.gaps.adaptive_weight import adaptive_weight, last_weight
from stillhouse.parts.gaps.critic import discriminator_loss, feature_source, features, head_for
from stillhouse.parts.players.students import with_inputs
from stillhouse.parts.states.time_sampler import edm, trained
from stillhouse.parts.targets.denoising import denoising_loss
from stillhouse.parts.targets.teacher import teacher_steps
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.grids import thinned
from stillhouse.train.batch import Batch, shared
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.published import Published, Settings
from stillhouse.train.recipe import Optim


@dataclass
class Landing:
    """Where a jump ``t -> s`` lands: the state ``x_t`` it began at, the ``times`` of the teacher's segment
    from ``t`` on, and ``x``, its landing carried to the clean end."""

    x_t: Tensor
    times: list[Tensor]
    s: Tensor
    x: Tensor


@dataclass
class CTM(Method):
    """Consistency Trajectory Models. Kim et al., 2023 (arXiv 2310.02279, eq. 5-9).

    ``G(x_t, t -> s)`` must land where a teacher segment ``t -> u`` followed by the student's own jump ``u ->
    s`` lands; both are carried on to the clean end by the student's EMA before they are compared (soft
    consistency). Its zero-length jump is kept a denoiser by denoising training, and a discriminator may join
    late.
    """

    levels: int = option(18, "noise levels of the grid", low=3)
    segment: int = option(17, "longest teacher segment, in levels", low=1)
    steps: int = option(1, "default number of calls per sample", low=1)
    gamma: float = option(
        0.0,
        "of the noise between two calls, the fresh one's standard deviation (0: deterministic)",
        low=0,
        high=1,
    )
    decay: float = option(0.999, "decay of the EMA copy per step", low=0, high=1)
    denoising: bool = option(True, "train the zero-length jump as a denoiser")
    critic_from: float = option(
        1.0, "share of the run after which a discriminator joins (1: never)", low=0, high=1
    )

    kind = "method"
    worlds = ("mixture", "digits", "mnist")
    needs = ("teacher", "data")
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=4e-4, name="radam"),
        "critic": Optim(lr=2e-3, betas=(0.5, 0.9)),
    }
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "sony/ctm@87cca3b, ImageNet-64, whose discriminator has betas of its own (0.5, 0.9); of latent "
            "models and of adapters it is the nearest",
            lr={"student": 8e-6, "critic": 2e-3},
            options={"levels": 40, "segment": 39},
            run={"optimiser": "radam", "weight_decay": 0.0, "clip": 0.0}
            | {"schedule": "constant", "warmup": 0, "ema": 0.999},
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.steps < self.levels,
            f"A student trained on {self.levels} levels can't be sampled in {self.steps} calls.",
        )

    def make_student(self, teacher: Denoiser) -> Denoiser:
        return with_inputs(teacher, two_time=True)

    def build(self) -> None:
        require(
            self.student.two_time,
            "CTM's student jumps between any two times; give it a network built with two_time.",
        )
        self.target: Denoiser = self.ema_copy(self.student, self.decay)
        self.grid = self.process.on_table(torch.linspace(1.0, self.process.t_min, self.levels))
        if self.critic_from < 1:
            self.feature_net = feature_source(self)
            self.head = self.player("critic", head_for(self.feature_net, self.shape))

    def turns(self, step: int) -> list[str]:
        return ["critic"] if self.with_critic(step) and step % 2 else ["student"]

    def with_critic(self, step: int) -> bool:
        """Whether the critic has joined at a step."""
        return self.critic_from < 1 and step >= self.critic_from * self.total

    def draw_times(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """Indices ``i`` (start) and ``j`` (end) per sample, and the segment's length ``n``, drawn for the
        batch with P(n) ~ n."""
        last = self.levels - 1
        most = min(self.segment, last)
        cumulative = torch.arange(1, most + 1).cumsum(0)
        n = 1 + int(
            torch.searchsorted(cumulative, batch.draws.one_uniform(0, float(cumulative[-1])), right=True)
        )
        i = batch.draws.integers(0, last - n + 1)
        j = (i + n + batch.draws.uniform() * (last - i - n + 1)).long().clamp(max=last)
        return i, j, n

    def to_clean(self, x: Tensor, s: Tensor, batch: Batch) -> Tensor:
        """The jump of the student's EMA to the lowest level; gradient passes through it, its weights don't
        learn.

        Arguments:
            x: states, (B, *shape).
            s: their times in [0, 1], (B,).
            batch: gives the condition.

        Returns:
            Clean estimates, (B, *shape).
        """
        return jump(self.target, x, s, torch.full_like(s, self.process.t_min), batch.cond)

    @shared
    def landing(self, batch: Batch) -> Landing:
        """The student's jump ``t -> s``, carried to the clean end."""
        i, j, n = self.draw_times(batch)
        times = [self.grid.to(i.device)[i + k] for k in range(n + 1)]
        s = self.grid.to(i.device)[j]
        x_t = self.process.noise(batch.data, times[0], batch.noise())
        x = self.to_clean(jump(self.student, x_t, times[0], s, batch.cond), s, batch)
        return Landing(x_t, times, s, x)

    @torch.no_grad()
    def target_x0(self, x_t: Tensor, times: list[Tensor], s: Tensor, batch: Batch) -> Tensor:
        """Teacher along ``times`` from ``t`` to ``u``, the student (not learning) from ``u`` to ``s``, the
        student's EMA to the end.

        Arguments:
            x_t: states at ``times[0]``, (B, *shape).
            times: of the teacher's steps, from ``t`` down to ``u``, (B,) each.
            s: where the student's jump ends, (B,).
            batch: gives the condition.

        Returns:
            The target, (B, *shape).
        """
        x_u = teacher_steps(self.teacher, x_t, times, batch.cond)
        return self.to_clean(jump(self.student, x_u, times[-1], s, batch.cond), s, batch)

    def student_loss(self, batch: Batch) -> Tensor:
        landed = self.landing(batch)
        target = self.target_x0(landed.x_t, landed.times, landed.s, batch)
        loss = main = (landed.x - target).square().mean()
        weight = last_weight(self.student)
        if self.denoising:
            other = denoising_loss(
                self.student, batch.data, self.denoising_times(batch), batch.noise(), batch.cond
            )
            loss = loss + adaptive_weight(main, other, weight) * other
        if self.with_critic(batch.step):
            adversarial = -self.logits(landed.x, batch).mean()
            loss = loss + adaptive_weight(main, adversarial, weight, 0.01, 10.0) * adversarial
        return loss

    def denoising_times(self, batch: Batch) -> Tensor:
        """Half uniform over the noisier 70 % of the grid, half log-normal in ``sigma / alpha``."""
        noisy = trained(self.process, 1 - 0.7 * (1 - self.process.t_min) * batch.draws.uniform())
        return torch.where(batch.draws.uniform() < 0.5, noisy, edm(self.process, batch.draws))

    def logits(self, x: Tensor, batch: Batch) -> Tensor:
        """The critic's logits of clean samples, read off the teacher's features at a low noise level.

        Arguments:
            x: samples, (B, *shape); no noise is added.
            batch: gives the condition.

        Returns:
            Logits, (B,), positive for real.
        """
        t = torch.full((len(x),), max(self.process.t_min, 0.05), device=x.device)
        return self.head(features(self.feature_net, x, t, batch.cond))

    def critic_loss(self, batch: Batch) -> Tensor:
        return discriminator_loss(
            self.logits(batch.data, batch), self.logits(self.landing(batch).x, batch), kind="hinge"
        )

    def samplings(self) -> dict[int, Sampling]:
        ways = [self.steps, *(k for k in (1, 2, 4) if k != self.steps and k < self.levels)]
        solver = {"name": "gamma", "gamma": self.gamma} if self.gamma else "ddim"
        return {k: Sampling(thinned(self.grid, k), solver) for k in ways}
