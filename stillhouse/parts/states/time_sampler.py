"""Distributions of training times, for any loss; on a process that is a table, over its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import unknown
from stillhouse.core.process import Process
from stillhouse.core.schedules import ScaledLinearVP


def trained(process: Process, t: Tensor) -> Tensor:
    """Drawn times as a network was trained at them: the next steps up of a table, the first one at least.

    Arguments:
        process: the network's.
        t: times in [0, 1], (B,).

    Returns:
        Times above 0, (B,).
    """
    return process.on_table(t.clamp_min(torch.finfo(t.dtype).tiny))


def at_step(process: Process, share: Tensor) -> Tensor:
    """Times of published steps such as "250 of 1000": on a table, which counts its steps from 0, that step;
    the share itself elsewhere.

    Arguments:
        process: the network's.
        share: the step over the number of steps, in [0, 1).

    Returns:
        Times, like ``share``.
    """
    if isinstance(process, ScaledLinearVP):
        return process.time_of_index((share * process.steps).round())
    return share.clamp_min(process.t_min)


def uniform(process: Process, draws: Draws, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform between the shares ``low`` and ``high`` of the way from ``t_min`` to 1 (for VE: uniform along
    the Karras grid).

    Arguments:
        process: whose ``t_min`` begins the range.
        draws: the source of randomness.
        low: share of the way at which the range begins, in [0, 1].
        high: share at which it ends.

    Returns:
        Times, (rows,).
    """
    span = 1 - process.t_min
    return trained(process, draws.uniform(process.t_min + low * span, process.t_min + high * span))


def logit_normal(process: Process, draws: Draws) -> Tensor:
    """``t = sigmoid(z)``, ``z ~ N(0, 1)``: more weight on the middle (Esser et al., 2024, arXiv 2403.03206,
    eq. 19).

    Arguments:
        process: whose ``t_min`` is the least of them; times below it are set to it.
        draws: the source of randomness.

    Returns:
        Times in [t_min, 1], (rows,).
    """
    return trained(process, torch.sigmoid(draws.normal()).clamp_min(process.t_min))


def edm(process: Process, draws: Draws) -> Tensor:
    """``ln(sigma / alpha) ~ N(-1.2, 1.2^2)`` (Karras et al., 2022, arXiv 2206.00364, table 1).

    Arguments:
        process: whose times have these levels.
        draws: the source of randomness.

    Returns:
        Times in [t_min, 1), (rows,).
    """
    return log_normal(process, draws, -1.2, 1.2)


def log_normal(process: Process, draws: Draws, mean: float, std: float) -> Tensor:
    """``ln(sigma / alpha) ~ N(mean, std^2)``.

    Arguments:
        process: whose times have these levels.
        draws: the source of randomness.
        mean: of ``ln(sigma / alpha)``.
        std: its standard deviation.

    Returns:
        Times in [t_min, 1), (rows,).
    """
    return trained(process, process.time(-(mean + std * draws.normal())).clamp(process.t_min, 1 - 1e-6))


TIME_SAMPLERS = {"uniform": uniform, "logit_normal": logit_normal, "edm": edm}


def time_sampler(name: str, process: Process, draws: Draws) -> Tensor:
    """Times drawn from the distribution called ``name``.

    Arguments:
        name: of :data:`TIME_SAMPLERS`; raises :class:`StillhouseError` for another.
        process: whose times they are.
        draws: the source of randomness.

    Returns:
        Times, (rows,).
    """
    if name not in TIME_SAMPLERS:
        raise unknown("time law", name, TIME_SAMPLERS)
    return TIME_SAMPLERS[name](process, draws)


def around(modes: Tensor, weights: Tensor, size: int, spread: float) -> Tensor:
    """Probabilities of ``0 … size - 1``: bumps ``exp(-(j - mode)^2 / spread)`` around several modes.

    No factor 2 in the exponent; at a ``spread`` of 0.5 a bump holds little but its mode and that one's
    neighbours (Chadebec et al., 2024, arXiv 2406.02347, section 3.3).

    Arguments:
        modes: where the bumps stand, (M,).
        weights: the share of each bump, (M,), of any sum above 0.
        size: how many indices there are.
        spread: the bumps' squared width.

    Returns:
        Probabilities of sum 1, (size,) float64.
    """
    away = torch.arange(size, dtype=torch.float64)[:, None] - modes
    p = (weights * torch.exp(-(away**2) / spread)).sum(1)
    return p / p.sum()


def one_of(probabilities: Tensor, draws: Draws) -> int:
    """One index, the same for every sample and every process.

    Arguments:
        probabilities: of the indices, (N,), of sum 1.
        draws: the source of randomness.

    Returns:
        The index, in 0 … N - 1.
    """
    return min(
        int(torch.searchsorted(probabilities.cumsum(0), draws.one_uniform(), right=True)),
        len(probabilities) - 1,
    )
