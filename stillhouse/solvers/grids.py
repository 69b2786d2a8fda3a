"""Time grids as values: falling float64 times from the noisy end, to ``t = 0`` unless noted otherwise."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.errors import require, required_type, unknown
from stillhouse.core.process import Process
from stillhouse.core.schedules import ScaledLinearVP


def _enough(n: int) -> None:
    require(n >= 1, f"A time grid needs at least one step, not {n}.")


def _with_zero(times: Tensor) -> Tensor:
    return torch.cat([times, times.new_zeros(1)])


def uniform(n: int) -> Tensor:
    """``1 - i / n``, shape ``(n + 1,)``."""
    _enough(n)
    return torch.arange(n, -1, -1, dtype=torch.float64) / n


def cosine(n: int) -> Tensor:
    """``(1 + cos(pi i / n)) / 2``, dense at both ends, shape ``(n + 1,)``."""
    _enough(n)
    times = (1 + torch.cos(math.pi * torch.arange(n + 1, dtype=torch.float64) / n)) / 2
    times[-1] = 0
    return times


def shifted(n: int, shift: float = 3.0) -> Tensor:
    """``a t / (1 + (a - 1) t)``: ``a`` times a flow's noise ratio on the uniform grid (Esser et al., 2024,
    arXiv 2403.03206, eq. 23).

    Arguments:
        n: steps, at least 1.
        shift: ``a``, positive; 1 is the uniform grid.

    Returns:
        Falling times, float64, (n + 1,).
    """
    require(shift > 0, f"A grid's shift must be positive, not {shift}.")
    t = uniform(n)
    return shift * t / (1 + (shift - 1) * t)


def _ratios(process: Process, low: float | None, high: float | None) -> tuple[float, float]:
    """The ends of a grid in ``sigma / alpha``: the given ones, kept to the process's range; [0.002, 80] where
    None."""
    ends = process.ratio(torch.tensor([process.t_min, 1.0], dtype=torch.float64)).tolist()
    low = max(ends[0], 0.002) if low is None else low
    high = min(ends[1], 80.0) if high is None else high
    require(
        0 < low < high,
        f"A grid's noise must run from a high to a lower positive sigma/alpha, not from {high} to {low}.",
    )
    slack = 1 + 1e-9
    require(
        high <= ends[1] * slack and low * slack >= ends[0],
        f"Process '{process.name}' has sigma/alpha in [{ends[0]:.4g}, {ends[1]:.4g}]; a grid from "
        f"{high:.4g} to {low:.4g} leaves it.",
    )
    return low, high


def karras(
    process: Process, n: int, rho: float = 7.0, sigma_min: float | None = None, sigma_max: float | None = None
) -> Tensor:
    """``n`` levels of ``sigma / alpha``, evenly spaced in its ``rho``-th root, then 0: shape ``(n + 1,)``.

    Karras et al., 2022 (arXiv 2206.00364, eq. 5). The ends default to EDM's [0.002, 80], as far as the
    process has them.

    Arguments:
        process: where times come from.
        n: steps, at least 1.
        rho: 7 in EDM; larger ones crowd the small levels.
        sigma_min: the last level before 0, as ``sigma / alpha``.
        sigma_max: the first level.

    Returns:
        Falling times, float64, (n + 1,).
    """
    _enough(n)
    low, high = _ratios(process, sigma_min, sigma_max)
    part = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
    ratio = (high ** (1 / rho) + part * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _with_zero(process.time_of_ratio(ratio))


def log_snr(
    process: Process, n: int, low: float | None = None, high: float | None = None, zero: bool = True
) -> Tensor:
    """Even steps in half log-SNR ``lambda`` from ``low`` to ``high`` (DPM-Solver's grid), shape ``(n + 1,)``.

    ``zero``: the last of the ``n`` steps leads to ``t = 0``; otherwise the grid ends at ``high``. The ends
    default to those of :func:`karras`.

    Arguments:
        process: where times come from.
        n: steps, at least 1.
        low: half log-SNR of the first time.
        high: half log-SNR of the last time before 0.
        zero: whether the last step leads to 0.

    Returns:
        Falling times, float64, (n + 1,).
    """
    _enough(n)
    least, most = _ratios(
        process, None if high is None else math.exp(-high), None if low is None else math.exp(-low)
    )
    count = n if zero else n + 1
    times = process.time(torch.linspace(-math.log(most), -math.log(least), count, dtype=torch.float64))
    return _with_zero(times) if zero else times


def _table(process: Process, n: int) -> int:
    _enough(n)
    steps = required_type(
        process,
        ScaledLinearVP,
        f"This spacing counts the steps of a table; process '{process.name}' has none.",
    ).steps
    require(n <= steps, f"A grid of {n} steps can't be had from a table of {steps}.")
    return steps


def leading(process: Process, n: int, offset: int = 1) -> Tensor:
    """Table steps ``i (steps // n) + offset``, falling, then 0: Stable Diffusion's default. Starts below ``t
    = 1``; shape ``(n + 1,)``.

    Arguments:
        process: one with a table of steps.
        n: steps, from 1 to the table's.
        offset: added to every table step.

    Returns:
        Falling times, float64, (n + 1,).
    """
    steps = _table(process, n)
    index = torch.arange(n - 1, -1, -1, dtype=torch.float64) * (steps // n) + offset
    return _with_zero((index.clamp(max=steps - 1) + 1) / steps)


def linspace(process: Process, n: int) -> Tensor:
    """``n`` table steps, rounded from an even spacing of the first to the last, then 0: shape ``(n +
    1,)``.

    Arguments:
        process: one with a table of steps.
        n: steps, from 1 to the table's.

    Returns:
        Falling times, float64, (n + 1,).
    """
    steps = _table(process, n)
    index = (
        torch.linspace(steps - 1, 0, n, dtype=torch.float64).round()
        if n > 1
        else torch.tensor([steps - 1.0], dtype=torch.float64)
    )
    return _with_zero((index + 1) / steps)


def trailing(process: Process, n: int) -> Tensor:
    """Table steps counted back from the last one, then 0 (Lin et al., 2023, arXiv 2305.08891): starts at ``t
    = 1``; shape ``(n + 1,)``.

    Arguments:
        process: one with a table of steps.
        n: steps, from 1 to the table's.

    Returns:
        Falling times, float64, (n + 1,).
    """
    steps = _table(process, n)
    index = (torch.arange(n, 0, -1, dtype=torch.float64) * (steps / n)).round()
    return _with_zero(index / steps)


def thinned(levels: Tensor, n: int) -> list[float]:
    """``n`` of a student's trained ``levels`` (falling times), evenly by index from the first, then 0: its
    grid of ``n`` calls.

    Arguments:
        levels: falling times ending in 0, (N + 1,).
        n: calls, at most N.

    Returns:
        The grid, n + 1 numbers.
    """
    _enough(n)
    require(n < len(levels), f"A student trained on {len(levels)} levels can't be sampled in {n} calls.")
    return [*levels[[i * (len(levels) - 1) // n for i in range(n)]].tolist(), 0.0]


GRIDS: dict[str, Callable[..., Tensor]] = {
    g.__name__: g for g in (uniform, cosine, shifted, karras, log_snr, leading, linspace, trailing)
}


def make_grid(config: str | dict[str, Any], process: Process, steps: int) -> Tensor:
    """The grid of that name and parameters with ``steps`` steps, float64 ``(steps + 1,)``; raises
    :class:`StillhouseError` if unknown.

    Arguments:
        config: a name, or a name with the grid's parameters.
        process: where times come from.
        steps: how many, at least 1.

    Returns:
        Falling times from at most 1 to 0, float64, (steps + 1,).
    """
    fields = {"name": config} if isinstance(config, str) else dict(config)
    name = str(fields.pop("name", ""))
    if name not in GRIDS:
        raise unknown("time grid", name, GRIDS)
    grid = GRIDS[name]
    known = inspect.signature(grid).parameters
    wrong = sorted(set(fields) - (set(known) - {"process", "n"}))
    require(
        not wrong,
        f"Time grid '{name}' has no parameter {', '.join(wrong)}; it has "
        f"{', '.join(sorted(set(known) - {'process', 'n'})) or 'none'}.",
    )
    if "process" in known:
        return grid(process, steps, **fields)
    times = grid(steps, **fields)
    placed = process.on_table(times)  # a grid finer than the table, in places, stays as it is
    return placed if bool((placed[1:] < placed[:-1]).all()) else times
