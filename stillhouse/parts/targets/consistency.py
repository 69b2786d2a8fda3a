"""What the consistency family shares: the guided teacher's step, the answer at its end, the tie to the data,
the tie to the data."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.flowmap import ddim_step, predict_x0
from stillhouse.core.guidance import Guided, takes_guidance
from stillhouse.core.prediction import EDM, KINDS, Bounded
from stillhouse.core.process import expand_to
from stillhouse.core.schedules import ScaledLinearVP


def guided_step(
    teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Condition = None, w: Tensor | float = 1.0
) -> Tensor:
    """One DDIM step of the teacher under guidance ``w`` from ``t`` to ``s``, later or earlier, (B,) each.

    A teacher that hears the scale is told it; any other is asked twice.
    """
    if takes_guidance(teacher):
        return ddim_step(
            teacher(x, t, cond, guidance=torch.as_tensor(w, dtype=t.dtype, device=t.device).expand(len(t))), s
        )
    return ddim_step(guided(teacher, w)(x, t, cond), s)


def guided(teacher: Denoiser, w: Tensor | float) -> Denoiser:
    """The teacher under guidance ``w``, a number or (B,); itself at 1."""
    return teacher if not torch.is_tensor(w) and w == 1 else Guided(teacher, w)


def consistency_target(
    model: Denoiser, x: Tensor, t: Tensor, low: float, cond: Condition = None, guidance: Tensor | None = None
) -> Tensor:
    """The clean end that ``model`` sees from ``x``; at the lowest level ``low`` the state itself, whatever
    the network says there.

    It is this that ties the chain of equal answers to the data.
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
