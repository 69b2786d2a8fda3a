"""Samples of a model: a sampling followed from fresh noise to its end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.guidance import takes_guidance
from stillhouse.samplers.rollout import Hook, rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.samplers.streaming import stream
from stillhouse.solvers import make_solver


def draw_samples(
    model: Denoiser,
    sampling: Sampling,
    shape: Sequence[int],
    cond: Condition,
    draws: Draws,
    hooks: Sequence[Hook] = (),
    *,
    dtype: torch.dtype = torch.float32,
    start: Tensor | None = None,
) -> Tensor:
    """Samples ``(draws.rows, *shape)`` of ``model`` by ``sampling``, under ``inference_mode``.

    ``shape``: of one sample. The walk starts from ``sigma(times[0]) z``, which is the prior at ``t = 1``; a
    student may start lower, from pure noise of the level it was trained to start at (or from
    ``sampling.start``). ``hooks`` as in :func:`stillhouse.samplers.rollout.rollout`. ``start``: the state to
    start from instead (a text with gaps, say). A stream's sample is its chunks, one after the other;
    ``shape`` may ask for any number of frames.
    """
    if sampling.chunk:
        length, *frame = shape
        require(length >= 1, f"A clip has at least one frame, not {length}.")
        chunks = stream(
            model, sampling, frame, cond, draws, frames=length, start=start, hooks=hooks, dtype=dtype
        )
        return torch.cat(list(chunks), 1)
    with torch.inference_mode():
        if start is None:
            start = model.process.start(draws, shape, sampling.times[0], sampling.start, dtype)
        scale = (
            torch.full((draws.rows,), sampling.guidance, device=start.device)
            if takes_guidance(model)
            else None
        )
        solver = make_solver(sampling.solver)
        return rollout(
            sampling.guided(model),
            start,
            sampling.times,
            solver,
            cond,
            draws=draws,
            guidance=scale,
            hooks=hooks,
        )
