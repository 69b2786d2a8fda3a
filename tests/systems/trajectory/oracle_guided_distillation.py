"""The loss of guided_distillation, from Meng et al., 2022 (arXiv 2210.03142, sections 3.1-3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import between, clean_weight, halved, placed


def steps(given: Given, stage: int) -> int:
    """Of the student: after the halvings as many as in the last of them."""
    return max(given.options["steps"], given.options["teacher_steps"] // 2**stage)


def times(given: Given, stage: int, i: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the student's step number ``i``: its start, middle and end. After the halvings it jumps two
    intervals, and the last one by the teacher's own step."""
    n = steps(given, stage)
    if 2**stage * n > given.options["teacher_steps"]:
        return i / n, torch.where(i == 1, i, i - 1) / n, torch.where(i == 1, i - 1, i - 2) / n
    return i / n, (i - 0.5) / n, (i - 1) / n


def loss(stage: int):
    """The student's in a stage: 0, guidance as an input; then the halvings."""

    def student_loss(given: Given) -> Tensor:
        own, options = given.draws("student"), given.options
        low, high = options["low_guidance"], options["high_guidance"]
        w = low + (high - low) * own.uniform()
        scale = {"guidance": w} if low < high else {}
        if stage == 0:
            t = between(given, 0, 1, own.uniform())
        else:
            i = own.integers(1, steps(given, stage) + 1)
            t, middle, s = (placed(given, v) for v in times(given, stage, i))
        x_t = given.noise(given.x, t, own.normal(*given.shape))
        with torch.no_grad():
            if stage == 0:
                target = given.guided(given.teacher, x_t, t, w)
            else:
                before = given.net("frozen.previous")
                target = halved(given, lambda x, t: before(x, t, given.cond, **scale).x0, x_t, t, middle, s)
        gap = (given.student(x_t, t, given.cond, **scale).x0 - target).square()
        return (clean_weight(given, t, options["weight"])[:, None] * gap).mean()

    return student_loss


WHOLE = {"teacher_steps": 16, "steps": 4, "stochastic": True, "low_guidance": 1.5, "high_guidance": 4.0}
ONE = {"low_guidance": 3.0, "high_guidance": 3.0}
CASES = [
    Case("student", loss(stage), process, kind, {**WHOLE, **more}, embedded=embedded, stage=stage)
    for stage, process, kind, embedded, more in (
        (0, Cosine(), "v", False, {}),
        (0, Flow(), "velocity", True, {"weight": "snr_plus_one"}),
        (0, VE(), "edm", False, {"weight": "one", **ONE}),
        (1, Flow(), "velocity", False, {}),
        (2, ScaledLinearVP(), "v", True, {"weight": "snr_plus_one"}),
        (2, Cosine(), "x0", False, ONE),
        (3, LinearVP(), "v", False, {"weight": "one"}),
    )
]
