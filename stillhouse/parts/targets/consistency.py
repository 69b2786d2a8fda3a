"""What the consistency family shares: the guided teacher's step, the target at its end, the boundary
condition."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.flowmap import ddim_step, predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.prediction import EDM, KINDS, Bounded
from stillhouse.core.process import expand_to
from stillhouse.core.schedules import ScaledLinearVP


def guided_step(
    teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Condition = None, w: Tensor | float = 1.0
) -> Tensor:
    """One DDIM step of the teacher under guidance.

    A teacher that takes the scale as an input is evaluated once (:class:`Guided`), any other twice.

    Arguments:
        teacher: the denoiser that steps.
        x: states, (B, *shape).
        t: times in [0, 1], (B,).
        s: where to, later or earlier, (B,).
        cond: the condition of the B rows; None for none.
        w: guidance scale, a number or (B,); the number 1 for none.

    Returns:
        The states at ``s``, (B, *shape).
    """
    return ddim_step(Guided(teacher, w)(x, t, cond), s)


def consistency_target(
    model: Denoiser, x: Tensor, t: Tensor, low: float, cond: Condition = None, guidance: Tensor | None = None
) -> Tensor:
    """The clean end that ``model`` predicts from ``x``; at the lowest level the state itself, whatever the
    network predicts there.

    This ties the chain of equal answers to the data.

    Arguments:
        model: the student's EMA, or the student itself.
        x: states, (B, *shape).
        t: times in [0, 1], (B,).
        low: time of the lowest level.
        cond: the condition of the B rows; None for none.
        guidance: scales (B,), for a model that takes them; None otherwise.

    Returns:
        The clean estimate, (B, *shape).
    """
    return torch.where(expand_to(t, x) > low + 1e-6, predict_x0(model, x, t, cond, guidance), x)


def enforce_boundary(student: Denoiser) -> None:
    """Make the student's clean estimate at its process's first level the state itself, exactly, wherever it
    is sampled or saved.

    An EDM student by shifted scales (Song et al., 2023, arXiv 2303.01469, eq. 25), one on a table of steps by
    :class:`Bounded`. Others have this at ``t = 0``.
    """
    process, kind = student.process, student.kind
    if isinstance(kind, EDM) and process.t_min > 0:
        sigma_min = float(process.sigma(torch.tensor([process.t_min], dtype=torch.float64)))
        student.kind = replace(kind, boundary=sigma_min)
    elif isinstance(process, ScaledLinearVP) and not isinstance(kind, Bounded | EDM):
        student.kind = Bounded(
            next(name for name, known in KINDS.items() if type(kind) is known), process.steps
        )
