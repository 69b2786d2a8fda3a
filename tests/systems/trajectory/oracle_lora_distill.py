"""The loss of lora_distill, from Golnari, 2023 (arXiv 2312.06899)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import between, placed

NOT_EMBEDDED = "a teacher that takes the scale as an input has no second evaluation to save, and is refused"


def student_loss(given: Given) -> Tensor:
    """``|o_adapter(x_t, c) - sg[o(x_t, none) + w (o(x_t, c) - o(x_t, none))]|^2``, ``o`` being the network's
    output."""
    own, process = given.draws("student"), given.process
    t = {
        "uniform": lambda: between(given, 0, 1, own.uniform()),
        "logit_normal": lambda: torch.sigmoid(own.normal()).clamp_min(process.t_min),
        "edm": lambda: process.time(1.2 - 1.2 * own.normal()).clamp(process.t_min, 1 - 1e-6),
    }[given.options["time_sampler"]]()
    t = placed(given, t)
    x_t = given.noise(given.x, t, own.normal(*given.shape))
    with torch.no_grad():
        target = given.guided(given.teacher, x_t, t, given.options["guidance"], "raw")
    return (given.student(x_t, t, given.cond).raw - target).square().mean()


CASES = [
    Case("student", student_loss, process, kind, {"time_sampler": name})
    for process, kind, name in (
        (Flow(), "velocity", "logit_normal"),
        (Cosine(), "v", "uniform"),
        (ScaledLinearVP(), "eps", "uniform"),
        (VE(), "edm", "edm"),
    )
]
