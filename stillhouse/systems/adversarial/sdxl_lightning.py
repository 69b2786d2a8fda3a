"""sdxl_lightning: progressive distillation whose jumps are judged by a critic that sees where they began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.flowmap import jump, predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.prediction import X0, Eps, Score
from stillhouse.core.process import expand_to
from stillhouse.parts.gaps.critic import JumpCritic, discriminator_loss, generator_loss
from stillhouse.parts.gaps.score import fake_for
from stillhouse.parts.states.segments import parted
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.parts.targets.teacher import teacher_steps
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.simple import renoise_up
from stillhouse.train.method import Batch, Method, copy_weights, option, shared
from stillhouse.train.recipe import Optim


@dataclass
class SDXLLightning(Method):
    """SDXL-Lightning: Progressive Adversarial Diffusion Distillation. Lin, Wang & Yang, 2024 (arXiv
    2402.13929, section 3).

    A student with ``N`` DDIM steps is to land where several steps of the model before it land; then it is
    that model for the next, smaller ``N``. After the first stage, a regression that takes the guidance in,
    "where" is judged by a critic whose backbone, a copy of the teacher, learns too: it sees where the jump
    began, so the student stays on the teacher's flow, yet needs no mean of several endings. In the rest of
    each stage it sees the landing alone (relaxation): few steps can't follow every path.
    """

    ladder: tuple[int, ...] = option(
        (128, 32, 8, 4, 2, 1),
        "steps of the teacher, then of each student, every one a divisor of the one before",
    )
    plain: int = option(1, "how many of the first stages are regressions", low=0)
    guidance: float = option(1.0, "guidance scale of the first teacher (1: none; the paper takes 6)", low=0)
    relax: float = option(
        0.5,
        "share of an adversarial stage after which the critic no longer sees the start (1: never)",
        low=0,
        high=1,
    )
    times: int = option(4, "fewest start times that a student is trained at, be its steps fewer", low=1)
    noise_levels: tuple[float, ...] = option(
        (0.01, 0.25, 0.5, 0.75),
        "times up to which the critic of 2 or 1 steps sees landings noised; none: none",
    )
    x0_student: bool = option(
        False,
        "make the student of a noise network one that says the clean image, in a stage of its own before "
        "all others",
    )

    kind = "method"
    worlds = ("mixture", "digits", "mnist", "shapes")
    needs = ("teacher", "data")
    same_size = True
    optim: ClassVar[dict[str, Optim]] = {
        "student": Optim(lr=5e-4, betas=(0.0, 0.99)),
        "critic": Optim(lr=1e-3, betas=(0.0, 0.99)),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ladder, self.noise_levels = tuple(self.ladder), tuple(self.noise_levels)
        falls = all(a > b >= 1 and a % b == 0 for a, b in zip(self.ladder, self.ladder[1:], strict=False))
        require(
            len(self.ladder) >= 2 and falls,
            "SDXLLightning option 'ladder' is at least two falling numbers of steps, each a divisor of "
            f"the one before, not {self.ladder}.",
        )
        inside = all(0 < t < 1 for t in self.noise_levels)
        require(inside, f"SDXLLightning option 'noise_levels' lies between 0 and 1, not {self.noise_levels}.")

    @property
    def steps(self) -> int:
        """Of the last student."""
        return self.ladder[-1]

    # -- stages ------------------------------------------------------------------------------------
    def stages(self, total: int) -> list[int]:
        count = len(self.ladder) - 1 + self.x0_student
        lengths = parted(total, [1.0] * count)
        require(min(lengths) > 0, f"{total} iterations are too few for {count} stages.")
        return lengths

    def place(self, step: int) -> tuple[int, float]:
        """The rung of the ladder that ``step`` teaches (0 for the first student, -1 while a noise network is
        converted), and the share of the stage that is over."""
        lengths, rung = self.stages(self.total), -int(self.x0_student)
        while step >= lengths[0] and len(lengths) > 1:
            step, rung = step - lengths.pop(0), rung + 1
        return rung, step / lengths[0]

    def adversarial(self, step: int) -> bool:
        return self.place(step)[0] >= self.plain

    def sees_start(self, step: int) -> bool:
        """Whether the critic is shown where a jump began."""
        return self.place(step)[1] < self.relax

    def turns(self, step: int) -> list[str]:
        return ["critic", "student"] if self.adversarial(step) else ["student"]

    # -- players -----------------------------------------------------------------------------------
    def make_student(self, teacher: Denoiser) -> Denoiser:
        student = teacher.copy()
        if self.x0_student:
            student.kind = X0()
        return student

    def build(self) -> None:
        blind = isinstance(self.student.kind, Eps | Score) and (
            self.steps == 1 or float(self.process.alpha(torch.ones(1))) < 1e-3
        )
        require(
            not blind,
            "One step from pure noise divides a noise prediction by next to nothing; set x0_student, and the "
            "student says the clean image.",
        )
        self.original = Guided(self.teacher, self.guidance)
        self.previous: Denoiser = self.frozen_copy(self.student, "previous")
        if self.plain < len(self.ladder) - 1:
            self.critic: JumpCritic = self.player(
                "critic", JumpCritic(fake_for(self.teacher, self.student), self.shape)
            )

    def enter(self, stage: int) -> None:
        copy_weights(self.previous, self.student)

    # -- jumps -------------------------------------------------------------------------------------
    def at(self, share: Tensor) -> Tensor:
        """The time at a share of the way from ``t_min`` to 1; the lowest one is the clean end."""
        low = self.process.t_min
        return torch.where(share > 0, low + (1 - low) * share, torch.zeros_like(share))

    @shared
    def landing(self, batch: Batch) -> Tensor:
        """The student's jump, one DDIM step; its start, end and the teacher's landing are left in
        ``batch.memo``."""
        rung, _ = self.place(batch.step)
        n, source = self.ladder[rung + 1], self.original if rung == 0 else self.previous
        starts, sub = max(n, self.times), self.ladder[rung] // n
        i = batch.draws.integers(1, starts + 1)
        top, bottom = i / starts, (i * n - starts).clamp_min(0) / (starts * n)
        path = [self.at(bottom + (top - bottom) * ((sub - k) / sub)) for k in range(sub + 1)]
        t, s, eps = path[0], path[-1], batch.noise()
        # exactly noise at the top, as the sampler starts, even where the schedule leaves some signal there
        x_t = torch.where(
            expand_to(t, eps) < 1, self.process.noise(batch.data, t, eps), eps * self.process.prior_std
        )
        batch.memo["jump"] = x_t, t, s, teacher_steps(source, x_t, path, batch.cond, DDIM())
        return jump(self.student, x_t, t, s, batch.cond)

    def student_loss(self, batch: Batch) -> Tensor:
        if self.place(batch.step)[0] < 0:
            return self.conversion(batch)
        landed = self.landing(batch)
        if not self.adversarial(batch.step):
            return (landed - batch.memo["jump"][3]).square().mean()
        return generator_loss(self.judge([landed], batch)[0])

    def critic_loss(self, batch: Batch) -> Tensor:
        landed = self.landing(batch)
        real, fake = self.judge([batch.memo["jump"][3], landed], batch)
        return discriminator_loss(real, fake)

    def judge(self, landed: list[Tensor], batch: Batch) -> list[Tensor]:
        """The critic's logits of landings, which for one and two steps are noised on to the same level with
        the same noise."""
        x_t, t, s, _ = batch.memo["jump"]
        start = (x_t, t) if self.sees_start(batch.step) else None
        if self.noise_levels and self.ladder[self.place(batch.step)[0] + 1] <= 2:
            chosen = torch.tensor(self.noise_levels, device=s.device)[
                batch.draws.integers(0, len(self.noise_levels))
            ]
            level, eps = torch.maximum(s, chosen), batch.noise()  # noise can be added, never taken away
            landed = [renoise_up(self.process, x, s, level, eps) for x in landed]
            s = level
        level = s.clamp_min(
            max(self.process.t_min, 1e-3)
        )  # no network was ever asked about exactly clean states
        return self.critic(landed, level, start, batch.cond)

    def conversion(self, batch: Batch) -> Tensor:
        """The student of a noise network learns to say the clean image that the teacher means."""
        t = uniform(self.process, batch.draws)
        x_t = self.process.noise(batch.data, t, batch.noise())
        with torch.no_grad():
            target = predict_x0(self.teacher, x_t, t, batch.cond)
        return (predict_x0(self.student, x_t, t, batch.cond) - target).square().mean()

    def samplings(self) -> dict[int, Sampling]:
        low = self.process.t_min
        times = [low + (1 - low) * k / self.steps for k in range(self.steps, 0, -1)]
        return {self.steps: Sampling([*times, 0.0], "ddim")}
