"""The loss of lcm, from Luo et al., 2023 (arXiv 2310.04378, algorithm 1; 2311.05556)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import ddim


def grid(given: Given) -> Tensor:
    """Falling times: of a table of 1000 steps every ``1000 / levels``-th counted from the last, and step 0;
    elsewhere ``levels`` equal parts down to ``t_min``."""
    count = given.options["levels"]
    if isinstance(given.process, ScaledLinearVP):
        steps = [(count - i) * (1000 // count) - 1 for i in range(count)] + [0]
        return torch.tensor([(step + 1) / 1000 for step in steps])
    return torch.linspace(1, given.process.t_min, count + 1, dtype=torch.float64).float()


def student_loss(given: Given) -> Tensor:
    options, own = given.options, given.draws("student")
    low, high, count = options["low_guidance"], options["high_guidance"], options["levels"]
    i = own.integers(0, count)
    t, u = grid(given)[i], grid(given)[i + 1]
    w = low + (high - low) * own.uniform() if low < high else high
    scale = {"guidance": w} if low < high else {}
    x_t = given.noise(given.x, t, own.normal(*given.shape))
    with torch.no_grad():
        x_u = ddim(given, x_t, t, u, given.guided(given.teacher, x_t, t, w))
        slow = given.net("ema.target") if options["decay"] else given.student
        target = torch.where((i == count - 1)[:, None], x_u, slow(x_u, u, given.cond, **scale).x0)
    gap = given.student(x_t, t, given.cond, **scale).x0 - target
    if options["distance"] == "huber":
        return ((gap.square() + 0.001**2).sqrt() - 0.001).mean()
    return gap.square().mean()


CASES = [
    Case("student", student_loss, process, kind, {"levels": 4, **more}, embedded=embedded)
    for process, kind, embedded, more in (
        (ScaledLinearVP(), "eps", False, {}),
        (ScaledLinearVP(), "v", True, {"distance": "l2"}),
        (Flow(), "velocity", True, {"low_guidance": 3.0, "high_guidance": 3.0}),
        (VE(), "edm", False, {"low_guidance": 3.0, "high_guidance": 3.0, "decay": 0.0}),
    )
]
