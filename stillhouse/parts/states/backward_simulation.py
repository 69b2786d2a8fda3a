"""A student as a generator: from pure noise, through its own earlier calls, to a sample that carries the last
call's gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.process import Process
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers.base import Solver
from stillhouse.solvers.simple import Renoise


def student_grid(process: Process, start: float, steps: int) -> list[float]:
    """Times of a student's calls: ``steps`` of them, evenly spaced from ``start`` towards ``t_min``, which
    would be the next one; steps of a table, where the process is one."""
    times = [process.t_min + (start - process.t_min) * (steps - k) / steps for k in range(steps)]
    return process.on_table(torch.tensor(times, dtype=torch.float64)).tolist()


def backward_simulation(
    student: Denoiser,
    times: Sequence[float],
    draws: Draws,
    cond: Condition,
    shape: Sequence[int],
    solver: Solver | None = None,
) -> Tensor:
    """Backward simulation (Yin et al., 2024, arXiv 2405.14867, section 4.5): samples ``(draws.rows,
    *shape)``.

    The student walks from pure noise of the level of ``times[0]`` down to ``times[-1]`` without gradient,
    re-noising its own clean estimates (or as ``solver`` does), and gives a sample by one call there, with
    gradient. These are the states that the sampler meets: equal draws, equal states.
    """
    start = student.process.start(draws, shape, times[0])
    return rollout(student, start, [*times, 0.0], solver or Renoise(), cond, draws=draws, grad_last=True)
