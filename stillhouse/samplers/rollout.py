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
    """Pure noise of the process, ``(rows, *shape)``: where every sample starts."""
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
    """Walk ``model`` from ``x`` at ``grid[0]`` down to ``grid[-1]`` and return the state there.

    ``x``: (B, …). ``grid``: falling times in [0, 1]. ``hooks``: ``hook(prediction, s) -> prediction`` between
    the clean estimate and the step. ``draws``: where a stochastic solver takes its noise. ``grad_last``:
    gradient flows through the last step alone (backward simulation: the states before it are what the sampler
    would meet); otherwise the caller's gradient mode holds throughout. ``record(x, t)`` sees every state with
    its time, the first one included.
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
