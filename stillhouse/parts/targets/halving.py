"""Halving a student's steps: the target that one step must hit, its weight, and the ladder of stages."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.flowmap import ddim_step
from stillhouse.core.process import Process, expand_to
from stillhouse.parts.states.segments import halvings

CLEAN_WEIGHTS = ("truncated_snr", "snr_plus_one", "one")


def halving_target(
    teacher: Denoiser,
    x_t: Tensor,
    t: Tensor,
    middle: Tensor,
    s: Tensor,
    cond: Condition = None,
    guidance: Tensor | None = None,
) -> Tensor:
    """The ``x0`` whose one DDIM step from ``x_t`` lands at ``s`` where two steps of the teacher, through
    ``middle``, arrive.

    A DDIM step adds ``(r_s - r_t) D`` to ``x / sigma``, with ``r = alpha / sigma``. So ``(x_s - (sigma_s /
    sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)`` (Salimans & Ho, 2022, arXiv 2202.00512,
    algorithm 2) is a mean of the teacher's two answers, weighted by what ``r`` gains in each half; in this
    form nothing cancels, and at ``s = 0``, where ``r`` is infinite, it is the second answer.

    Arguments:
        teacher: the denoiser of the two steps.
        x_t: states, (B, *shape).
        t: times in (0, 1], (B,).
        middle: where the first step ends, (B,), below ``t``.
        s: where the second one ends, (B,), below ``middle``.
        cond: the condition of the B rows; None for none.
        guidance: scales (B,), for a teacher that takes them; None otherwise.

    Returns:
        The target of the clean estimate, (B, *shape).
    """
    process = teacher.process
    first = teacher(x_t, t, cond, guidance=guidance)
    second = teacher(ddim_step(first, middle), middle, cond, guidance=guidance)
    r_t, r_middle, r_s = (process.alpha(v) / process.sigma(v) for v in (t, middle, s))
    return second.x0 + expand_to((r_middle - r_t) / (r_s - r_t), x_t) * (first.x0 - second.x0)


def clean_weight(process: Process, t: Tensor, name: str = "truncated_snr") -> Tensor:
    """Weight of a clean estimate's squared error; the signal-to-noise ratio is bounded at 400.

    Arguments:
        process: whose signal-to-noise ratio is meant.
        t: times in [0, 1], (B,).
        name: one of :data:`CLEAN_WEIGHTS`: ``max(snr, 1)``, ``snr + 1``, or 1.

    Returns:
        Weights, (B,).
    """
    if name == "one":
        return torch.ones_like(t)
    snr = torch.exp(2 * process.log_snr(t).clamp(max=3.0))
    return snr.clamp_min(1) if name == "truncated_snr" else snr + 1


def ladder(first: int, last: int) -> list[int]:
    """``first / 2, first / 4, …, last``; raises :class:`StillhouseError` where halving does not lead from one
    to the other.

    Arguments:
        first: steps of the first teacher.
        last: steps of the last student.

    Returns:
        Steps of each student.
    """
    ratio = first // last
    require(
        ratio >= 2 and ratio * last == first and ratio & (ratio - 1) == 0,
        f"Halving leads from {first} steps to {last} only if one is the other times 2, 4, 8 …",
    )
    return halvings(first, last)[1:]


def halving_lengths(total: int, steps: list[int]) -> list[int]:
    """Iterations of the stages of a ladder, ``total`` in all; the last halvings are the hard ones and get
    double.

    Arguments:
        total: iterations to share; raises :class:`StillhouseError` where they are too few.
        steps: how many steps the student of each stage takes.

    Returns:
        Iterations of each stage.
    """
    shares = [2 if n <= 2 else 1 for n in steps]
    lengths = [max(1, total * share // sum(shares)) for share in shares]
    lengths[-1] += total - sum(lengths)
    require(lengths[-1] > 0, f"{total} iterations are too few for {len(shares)} halvings.")
    return lengths
