"""The loss of progressive, from Salimans & Ho, 2022 (arXiv 2202.00512, algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.schedules import Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import clean_weight, halved, placed


def loss(stage: int):
    """The student's, whose teacher is the run's in the first stage, then the student of the stage before."""

    def student_loss(given: Given) -> Tensor:
        own, n = given.draws("student"), given.options["teacher_steps"] // 2 ** (stage + 1)
        i = own.integers(1, n + 1)
        t, middle, s = (placed(given, v) for v in (i / n, (i - 0.5) / n, (i - 1) / n))
        x_t = given.noise(given.x, t, own.normal(*given.shape))
        teacher = given.teacher if stage == 0 else given.net("frozen.previous")
        with torch.no_grad():
            target = halved(given, lambda x, t: teacher(x, t, given.cond).x0, x_t, t, middle, s)
        gap = (given.student(x_t, t, given.cond).x0 - target).square()
        return (clean_weight(given, t, given.options["weight"])[:, None] * gap).mean()

    return student_loss


CASES = [
    Case("student", loss(stage), process, kind, {"teacher_steps": 8, "weight": weight}, stage=stage)
    for stage, process, kind, weight in (
        (0, Cosine(), "v", "truncated_snr"),
        (0, Flow(), "velocity", "snr_plus_one"),
        (1, ScaledLinearVP(), "eps", "snr_plus_one"),
        (1, Flow(), "x0", "truncated_snr"),
        (2, Cosine(), "v", "one"),
    )
]
