"""The teacher's steps along its path, as targets."""

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
    """States carried by the teacher along its path, without gradient.

    Arguments:
        teacher: the denoiser that steps.
        x: states, (B, *shape).
        times: from the states' times to the last ones, each (B,) and falling sample by sample.
        cond: the condition of the B rows; None for none.
        solver: of one step; it must be deterministic.

    Returns:
        The states at the last of ``times``, (B, *shape).
    """

    def predict(x: Tensor, t: Tensor, s: Tensor) -> Prediction:
        return teacher(x, t, cond)

    history = History(teacher.process, left=len(times))
    for t, s in zip(times, times[1:], strict=False):
        x = solver.step(predict, x, t, s, history, None)
    return x
