"""The one loop that walks a model along a time grid: sampling, backward simulation, teacher trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.prediction import Prediction
from stillhouse.core.process import Process
from stillhouse.solvers.base import History, Solver

Hook = Callable[[Prediction, Tensor], Prediction]


def prior(process: Process, draws: Draws, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pure noise of a process: where every sample starts.

    Arguments:
        process: the process of the walk.
        draws: the source of randomness.
        shape: of one sample.
        dtype: of the state.

    Returns:
        The state at ``t = 1``, (rows, *shape).
    """
    return process.start(draws, shape, dtype=dtype)


def rollout(
    model: Denoiser,
    x: Tensor,
    grid: Sequence[float] | Tensor,
    solver: Solver,
    cond: Condition = None,
    *,
    draws: Draws | None = None,
    guidance: Tensor | None = None,
    hooks: Sequence[Hook] = (),
    grad_last: bool = False,
    record: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Walk a model along a time grid.

    Arguments:
        model: the denoiser that walks.
        x: states at ``grid[0]``, (B, *shape).
        grid: times in [0, 1], strictly falling, n + 1 for n steps.
        solver: what takes each step.
        cond: the condition of the B rows; None for none.
        draws: the source of randomness of a stochastic solver; None for a solver that needs none.
        guidance: scales ``w``, (B,), 1 for none, for a model that takes them; None otherwise.
        hooks: ``hook(prediction, s) -> prediction``, applied in order between the clean estimate and the
            step.
        grad_last: gradient flows through the last step alone, as in backward simulation, whose earlier states
            are those of the sampler; otherwise the caller's gradient mode holds throughout.
        record: ``record(x, t)`` is called with every state and its time (a scalar), the first one included.

    Returns:
        The states at ``grid[-1]``, (B, *shape).

    Raises:
        StillhouseError: for a grid that does not fall strictly, or of fewer than two times.
    """
    times = torch.as_tensor(grid, dtype=torch.float64, device=x.device)
    require(times.dim() == 1 and len(times) >= 2, "A time grid needs at least two times.")
    require(
        bool((times[1:] < times[:-1]).all()),
        f"A time grid must fall strictly, not run {[round(v, 4) for v in times.tolist()]}.",
    )

    def predict(x: Tensor, t: Tensor, s: Tensor) -> Prediction:
        pred = model(x, t, cond, s=s if model.two_time else None, guidance=guidance)
        for hook in hooks:
            pred = hook(pred, s)
        return pred

    history = History(model.process)
    if record:
        record(x, times[0])
    steps = len(times) - 1
    for i in range(steps):
        history.left = steps - 1 - i
        t, s = times[i].expand(len(x)), times[i + 1].expand(len(x))
        with torch.set_grad_enabled(torch.is_grad_enabled() and (not grad_last or history.left == 0)):
            x = solver.step(predict, x, t, s, history, draws)
        if record:
            record(x, times[i + 1])
    return x
