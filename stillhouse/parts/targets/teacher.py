"""What a teacher is asked for along its path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.prediction import Prediction
from stillhouse.solvers.base import History, Solver
from stillhouse.solvers.heun import Heun

HEUN = Heun()


@torch.no_grad()
def teacher_steps(
    teacher: Denoiser, x: Tensor, times: Sequence[Tensor], cond: Condition = None, solver: Solver = HEUN
) -> Tensor:
    """``x`` (B, …) carried by the teacher through ``times``, each of shape (B,) and falling sample by
    sample."""

    def predict(x: Tensor, t: Tensor, s: Tensor) -> Prediction:
        return teacher(x, t, cond)

    history = History(teacher.process, left=len(times))
    for t, s in zip(times, times[1:], strict=False):
        x = solver.step(predict, x, t, s, history, None)
    return x
