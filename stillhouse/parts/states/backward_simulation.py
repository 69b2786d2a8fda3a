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
    would be the next one; steps of a table, where the process is one.

    Arguments:
        process: whose ``t_min`` ends the grid.
        start: time of the first call, in (t_min, 1].
        steps: how many calls, at least 1.

    Returns:
        Falling times, ``steps`` of them.
    """
    times = [process.t_min + (start - process.t_min) * (steps - k) / steps for k in range(steps)]
    grid: list[float] = process.on_table(torch.tensor(times, dtype=torch.float64)).tolist()
    return grid


def backward_simulation(
    student: Denoiser,
    times: Sequence[float],
    draws: Draws,
    cond: Condition,
    shape: Sequence[int],
    solver: Solver | None = None,
    std: float | None = None,
) -> Tensor:
    """Backward simulation (Yin et al., 2024, arXiv 2405.14867, section 4.5): samples of the student, with the
    gradient of its last call.

    The student walks from pure noise of the level of ``times[0]`` down to ``times[-1]`` without gradient, and
    gives a sample by one call there, with gradient. These are the states that the sampler meets: equal draws,
    equal states.

    Arguments:
        student: the denoiser that learns.
        times: of its calls, falling, in (0, 1].
        draws: the source of randomness.
        cond: the condition of the draws' rows; None for none.
        shape: of one sample.
        solver: how it moves from call to call; None: its own clean estimates are noised again.
        std: standard deviation of the first noise; None: the level of ``times[0]``.

    Returns:
        Samples, (rows, *shape).
    """
    start = student.process.start(draws, shape, times[0], std)
    return rollout(student, start, [*times, 0.0], solver or Renoise(), cond, draws=draws, grad_last=True)
