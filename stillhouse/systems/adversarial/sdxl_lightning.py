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
from stillhouse.core.prediction import X0
from stillhouse.core.process import expand_to
from stillhouse.parts.gaps.critic import JumpCritic, discriminator_loss, generator_loss
from stillhouse.parts.gaps.score import fake_for
from stillhouse.parts.states.backward_simulation import student_grid
from stillhouse.parts.states.segments import parted
from stillhouse.parts.states.time_sampler import at_step, uniform
from stillhouse.parts.targets.teacher import teacher_steps
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.simple import renoise_up
from stillhouse.train.batch import Batch, shared
from stillhouse.train.method import Method, copy_weights
from stillhouse.train.option import option
from stillhouse.train.published import CONSTANT, PLAIN_ADAM, Published, Settings
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage, enough
from stillhouse.train.start import require_clean_start


@dataclass
class Jump:
    """Where a jump of the student begins, ``x_t`` at ``t``, where it ends, ``x_s`` at ``s``, and where the
    teacher's steps lead, ``target``."""

    x_t: Tensor
    t: Tensor
    s: Tensor
    x_s: Tensor
    target: Tensor


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
        "share of an adversarial stage after which the critic is no longer given the start (1: never)",
        low=0,
        high=1,
    )
    times: int = option(4, "fewest start times that a student is trained at, be its steps fewer", low=1)
    noise_levels: tuple[float, ...] = option(
        (0.01, 0.25, 0.5, 0.75),
        "times to which landings are noised for the critic of 2 or 1 steps; none: none",
    )
    x0_student: bool = option(
        False,
        "make the student of a noise network one that predicts the clean image, in a stage of its own before "
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
    published: ClassVar[Published] = {
        "pipeline": Settings(
            "SDXL-Lightning (2402.13929), sections 3.6 and 3.7, the adversarial stages (its regression "
            "learns at 1e-5); of other families it is the nearest",
            lr={"student": 5e-7, "critic": 5e-7},
            options={"guidance": 6.0},
            run={**PLAIN_ADAM, **CONSTANT, "betas": (0.0, 0.99), "clip": 0.0},
        ),
        "flux": Settings(
            "the embedded scale of Flux, which has no published Lightning: FastGen's for dmd2",
            options={"guidance": 3.5},
        ),
        "lora": Settings(
            "LoRA: rank 64",
            lr={"student": 1e-6, "critic": 1e-6},
            run={"lora": 64, "lora_alpha": 64.0, "lora_targets": "blocks"},
        ),
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
    def stages(self, total: int) -> list[Stage]:
        """A conversion under ``x0_student``, then a stage for each student of the ladder."""
        lengths = parted(total, [1.0] * (len(self.ladder) - 1 + self.x0_student))
        regression, adversarial = {"student": self.regression_loss}, {"student": self.adversarial_loss}
        made = []
        if self.x0_student:
            alone = {"student": self.conversion_loss}
            made.append(Stage("conversion", lengths.pop(0), self.regression_turns, alone))
        for k, length in enumerate(lengths):
            name, plain = f"{self.ladder[k]} to {self.ladder[k + 1]} steps", k < self.plain
            turns = self.regression_turns if plain else self.adversarial_turns
            made.append(Stage(name, length, turns, regression if plain else adversarial, self.promote))
        return enough(made, total)

    @staticmethod
    def regression_turns(step: int) -> list[str]:
        """The student alone."""
        return ["student"]

    @staticmethod
    def adversarial_turns(step: int) -> list[str]:
        """The critic, then the student."""
        return ["critic", "student"]

    def promote(self) -> None:
        """The student becomes the model that the next one follows."""
        copy_weights(self.previous, self.student)

    @property
    def student_number(self) -> int:
        """Which student of the ladder learns, from 0; -1 while a noise network is converted."""
        return self.stage - int(self.x0_student)

    def with_start(self, batch: Batch) -> bool:
        """Whether the critic is given where a jump began: not in the rest of a stage (relaxation)."""
        return batch.within / self.current.length < self.relax

    # -- players -----------------------------------------------------------------------------------
    def make_student(self, teacher: Denoiser) -> Denoiser:
        student = teacher.copy()
        if self.x0_student:
            student.kind = X0()
        return student

    def build(self) -> None:
        require_clean_start(self.student, one_step=self.steps == 1, advice="set x0_student")
        self.original = Guided(self.teacher, self.guidance)
        self.previous: Denoiser = self.frozen_copy(self.student, "previous")
        if self.plain < len(self.ladder) - 1:
            self.critic: JumpCritic = self.player(
                "critic", JumpCritic(fake_for(self.teacher, self.student), self.shape)
            )

    # -- jumps -------------------------------------------------------------------------------------
    def at(self, share: Tensor) -> Tensor:
        """The time at a share of the way from ``t_min`` to 1; the lowest one is the clean end."""
        low = self.process.t_min
        return self.process.on_table(torch.where(share > 0, low + (1 - low) * share, torch.zeros_like(share)))

    @shared
    def student_jump(self, batch: Batch) -> Jump:
        """One DDIM step of the student within an interval of the grid, and the teacher's steps from there."""
        k = self.student_number
        n, source = self.ladder[k + 1], self.original if k == 0 else self.previous
        starts, sub = max(n, self.times), self.ladder[k] // n
        i = batch.draws.integers(1, starts + 1)
        top, bottom = i / starts, (i * n - starts).clamp_min(0) / (starts * n)
        path = [self.at(bottom + (top - bottom) * ((sub - j) / sub)) for j in range(sub + 1)]
        t, s, eps = path[0], path[-1], batch.noise()
        # exactly noise at the top, as the sampler starts, even where the schedule leaves some signal there
        x_t = torch.where(
            expand_to(t, eps) < 1, self.process.noise(batch.data, t, eps), eps * self.process.prior_std
        )
        target = teacher_steps(source, x_t, path, batch.cond, DDIM())
        return Jump(x_t, t, s, jump(self.student, x_t, t, s, batch.cond), target)

    def regression_loss(self, batch: Batch) -> Tensor:
        """The student's loss in a regression's stage: squared error of where its jumps end."""
        made = self.student_jump(batch)
        return (made.x_s - made.target).square().mean()

    def adversarial_loss(self, batch: Batch) -> Tensor:
        """The student's loss in an adversarial stage."""
        made = self.student_jump(batch)
        return generator_loss(self.logits([made.x_s], made, batch)[0])

    def critic_loss(self, batch: Batch) -> Tensor:
        made = self.student_jump(batch)
        real, fake = self.logits([made.target, made.x_s], made, batch)
        return discriminator_loss(real, fake)

    def logits(self, ends: list[Tensor], made: Jump, batch: Batch) -> list[Tensor]:
        """The critic's logits of where jumps end, which for one and two steps are noised on to the same level
        with the same noise.

        Arguments:
            ends: the student's ends and the teacher's, each (B, *shape).
            made: the jump that they belong to, which gives start and times.
            batch: gives level, noise and condition.

        Returns:
            Logits (B,) of each of ``ends``.
        """
        start = (made.x_t, made.t) if self.with_start(batch) else None
        s = made.s
        if self.noise_levels and self.ladder[self.student_number + 1] <= 2:
            drawn = batch.draws.integers(0, len(self.noise_levels))
            chosen = at_step(self.process, torch.tensor(self.noise_levels, device=s.device))[drawn]
            # noise can be added, never taken away
            level, eps = torch.maximum(s, chosen), batch.noise()
            ends = [renoise_up(self.process, x, s, level, eps) for x in ends]
            s = level
        # no network was trained on exactly clean states
        return self.critic(ends, s.clamp_min(max(self.process.t_min, 1e-3)), start, batch.cond)

    def conversion_loss(self, batch: Batch) -> Tensor:
        """The student of a noise network learns the clean image that the teacher's output stands for."""
        t = uniform(self.process, batch.draws)
        x_t = self.process.noise(batch.data, t, batch.noise())
        with torch.no_grad():
            target = predict_x0(self.teacher, x_t, t, batch.cond)
        return (predict_x0(self.student, x_t, t, batch.cond) - target).square().mean()

    def samplings(self) -> dict[int, Sampling]:
        return {self.steps: Sampling([*student_grid(self.process, 1.0, self.steps), 0.0], "ddim")}
