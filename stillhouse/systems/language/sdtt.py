"""sdtt: the student predicts at once what its teacher predicts over several small steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.discrete import choose, of_masks
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.token_likelihood import noised, stratified
from stillhouse.core.token_prediction import of_words
from stillhouse.parts.tokens.losses import DIVERGENCES, divergence, over_replaced
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method, copy_weights
from stillhouse.train.option import option
from stillhouse.train.published import PLAIN_ADAM, Published, Settings
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage, enough


@dataclass
class SDTT(Method):
    """Beyond Autoregression: Fast LLMs via Self-Distillation Through Time. Deschenaux & Gulcehre, 2024 (arXiv
    2410.21035, algorithm 1).

    The teacher unmasks a text in ``substeps`` steps of length ``dt``. Every masked position keeps the
    teacher's last prediction before it was unmasked, a whole distribution, and the student must predict all
    of these at once. Then it becomes the teacher and ``dt`` is multiplied by ``substeps``. On average the
    targets are no news (their mean is the teacher's own first prediction), so the divergence matters: reverse
    KL leads to their normalised *geometric* mean, which is sharper.
    """

    teacher_steps: int = option(
        1024, "steps of the first teacher: dt of the first round is 1 over this", low=2
    )
    substeps: int = option(
        2, "teacher steps that one of the student's replaces, and the factor of dt from round to round", low=2
    )
    rounds: int = option(7, "how often the student becomes the teacher, the first round included", low=1)
    divergence: str = option("reverse_kl", "how far the student is from its target", choices=DIVERGENCES)
    teacher_ema: float = option(
        0.0, "decay of the average that becomes the next teacher (0: the student itself)", low=0, high=0.99999
    )

    kind = "method"
    worlds = ("text",)
    needs = ("teacher", "data")
    processes = ("tokens",)
    same_size = True
    optim: ClassVar[dict[str, Optim]] = {"student": Optim(lr=3e-4, clip=1.0)}
    free_steps = True
    published: ClassVar[Published] = {
        "language": Settings(
            "SDTT (2410.21035), section 4, MDLM of 169 M weights; clipping of the released configuration; of"
            " adapters it is the nearest",
            lr={"student": 6e-5},
            run={**PLAIN_ADAM, "schedule": "constant", "warmup": 500, "clip": 1.0, "ema": 0.9999},
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        lengthened = (self.rounds - 1) * math.log(self.substeps)
        sentence = (
            f"{self.rounds} rounds from {self.teacher_steps} steps end in a step longer than all of "
            "time; take fewer rounds."
        )
        require(lengthened <= math.log(self.teacher_steps) + 1e-9, sentence)

    def stages(self, total: int) -> list[Stage]:
        ends = [total * i // self.rounds for i in range(self.rounds + 1)]
        rounds = [
            Stage(f"round {i + 1}", ends[i + 1] - ends[i], enter=self.promote) for i in range(self.rounds)
        ]
        return enough(rounds, total, "rounds")

    def build(self) -> None:
        self.masked = of_masks(self.process)
        self.previous: Denoiser = self.frozen_copy(self.student, "previous")
        self.next_teacher = (
            self.ema_copy(self.student, self.teacher_ema, "next_teacher")
            if self.teacher_ema
            else self.student
        )

    def promote(self) -> None:
        """The student, or its average, becomes the teacher."""
        copy_weights(self.previous, self.next_teacher)

    @property
    def dt(self) -> float:
        """Length of the teacher's steps in this round."""
        return float(self.substeps**self.stage / self.teacher_steps)

    def student_loss(self, batch: Batch) -> Tensor:
        t = stratified(self.process, batch.draws)
        x_t = noised(self.process, batch.data, t, batch.draws)
        with torch.no_grad():
            target = self.target(x_t, t, batch.cond, batch.draws)
        hidden = x_t == self.masked.mask
        gap = divergence(
            self.divergence, of_words(self.student(x_t, t, batch.cond)).log_probs[hidden], target[hidden]
        )
        return over_replaced(self.process, gap, *x_t.shape)

    def target(self, x_t: Tensor, t: Tensor, cond: Condition, draws: Draws) -> Tensor:
        """The student's target: the teacher's last prediction at each mask.

        What the last step unmasks was predicted in that step, as was what stays masked: it need not be taken.

        Arguments:
            x_t: tokens, (B, L).
            t: times in [0, 1], (B,).
            cond: the condition of the B rows; None for none.
            draws: the source of randomness.

        Returns:
            Log-probabilities, (B, L, V), of use at the masks of ``x_t``.
        """
        teacher = self.teacher if self.stage == 0 else self.previous
        pred = of_words(teacher(x_t, t, cond))
        target, z = pred.log_probs, x_t
        for i in range(1, self.substeps):
            before, now = ((t - k * self.dt).clamp_min(self.process.t_min) for k in (i - 1, i))
            step = self.masked.posterior(pred.log_probs, z, before, now)
            z = choose(step, draws.uniform(0.0, 1.0, *z.shape[1:], dtype=torch.float64))
            pred = of_words(teacher(z, now, cond))
            target = torch.where((z == self.masked.mask)[..., None], pred.log_probs, target)
        return target

    def samplings(self) -> dict[int, Sampling]:
        steps = max(1, round(self.teacher_steps / self.substeps**self.rounds))
        return {steps: Sampling.steps(self.process, steps, solver="ancestral")}
