"""Score differences: moving a student's samples along what two denoisers disagree on."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.conditions import Condition
from stillhouse.denoiser import Denoiser, ExactDenoiser


def fake_for(teacher: Denoiser, student: Denoiser) -> Denoiser:
    """A network to become the fake score: the teacher's copy, or the student's where the teacher is a closed form."""
    return student.copy() if isinstance(teacher, ExactDenoiser) else teacher.copy()


def direction(x: Tensor, t: Tensor, eps: Tensor, real: Denoiser, fake: Denoiser, cond: Condition = None) -> Tensor:
    """Where ``x`` should go *down*: ``(D_fake - D_real) / mean|x - D_real|`` at ``x`` (B, …) renoised to ``t`` with ``eps``.

    Up to a positive weight this is the gradient of ``KL(p_student,t || p_teacher,t)``, since ``s_fake - s_real = alpha (D_fake -
    D_real) / sigma^2``. The normaliser is one number a sample. Without gradient; NaN becomes 0. (Yin et al., 2023, arXiv 2311.18828,
    eq. 7-8.)
    """
    with torch.no_grad():
        x_t = real.process.noise(x, t, eps)
        d_real, d_fake = real(x_t, t, cond).x0, fake(x_t, t, cond).x0
        size = (x - d_real).abs().flatten(1).mean(1).reshape(-1, *[1] * (x.dim() - 1))
        return torch.nan_to_num((d_fake - d_real) / size)


def along(x: Tensor, g: Tensor) -> Tensor:
    """A loss whose gradient at ``x`` is ``g`` divided by the number of elements: ``mean (x - sg[x - g])^2 / 2``."""
    return 0.5 * (x - (x - g).detach()).square().mean()
