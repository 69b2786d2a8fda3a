"""Score differences: moving a student's samples along what two denoisers disagree on."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.prediction import At, Prediction


def fake_for(teacher: Denoiser, student: Denoiser) -> Denoiser:
    """A network to become the fake score: the teacher's copy, or the student's where the teacher is a closed
    form."""
    return student.copy() if isinstance(teacher, ExactDenoiser) else teacher.copy()


def difference(
    x: Tensor, t: Tensor, eps: Tensor, real: Denoiser, fake: Denoiser | None, cond: Condition = None
) -> tuple[Tensor, Prediction]:
    """``D_own - D_real`` at ``x`` (B, …) noised to ``t`` with ``eps``, and what ``real`` said there under
    ``cond``. Without gradient.

    ``D_own``: what ``fake`` says under the same; None: ``x`` itself, which is the posterior mean where each
    ``x`` is the one sample there is. Times ``alpha / sigma^2`` it is the difference of two scores, times
    ``alpha / sigma`` that of two noises.
    """
    with torch.no_grad():
        x_t = real.process.noise(x, t, eps)
        pred = real(x_t, t, cond)
        own = x if fake is None else fake(x_t, t, cond).x0
        return own - pred.x0, pred


def dmd_gradient(
    x: Tensor, t: Tensor, eps: Tensor, real: Denoiser, fake: Denoiser, cond: Condition = None
) -> Tensor:
    """Where ``x`` should go *down*: ``(D_fake - D_real) / mean|x - D_real|`` at ``x`` (B, …) renoised to
    ``t`` with ``eps``.

    Up to a positive weight this is the gradient of ``KL(p_student,t || p_teacher,t)``, since ``s_fake -
    s_real = alpha (D_fake - D_real) / sigma^2``. The normaliser is one number a sample. Without gradient; NaN
    becomes 0. (Yin et al., 2023, arXiv 2311.18828, eq. 7-8.)
    """
    with torch.no_grad():
        gap, pred = difference(x, t, eps, real, fake, cond)
        size = (x - pred.x0).abs().flatten(1).mean(1).reshape(-1, *[1] * (x.dim() - 1))
        return torch.nan_to_num(gap / size)


def noise_share(at: At) -> Tensor:
    """``sigma^2`` of the variance-preserving process of equal signal-to-noise: ``sigma^2 / (alpha^2 +
    sigma^2)``."""
    return at.sigma**2 / (at.alpha**2 + at.sigma**2)


SCORE_WEIGHTS = {
    "ratio": lambda at: at.sigma / at.alpha,
    "sigma2": noise_share,
    "one": lambda at: torch.ones_like(at.sigma),
}


def sds_gradient(
    x: Tensor,
    t: Tensor,
    eps: Tensor,
    real: Denoiser,
    fake: Denoiser | None = None,
    cond: Condition = None,
    weight: str = "ratio",
    fake_cond: Condition = None,
) -> Tensor:
    """Where views ``x`` (B, …) should go *down*: ``w(t) (eps_real - eps_B)`` at ``x`` noised to ``t`` (B,)
    with ``eps``.

    ``fake``: whose noise estimate, under ``fake_cond``, is ``eps_B``; None: ``eps`` itself. ``weight``: a
    name in :data:`SCORE_WEIGHTS`. With ``eps`` and the ratio this is ``x - D(x_t)``. Without gradient; NaN
    becomes 0.
    """
    with torch.no_grad():
        x_t = real.process.noise(x, t, eps)
        pred = real(x_t, t, cond)
        against = eps if fake is None else fake(x_t, t, fake_cond).eps
        return torch.nan_to_num(SCORE_WEIGHTS[weight](pred.at) * (pred.eps - against))


def surrogate_loss(x: Tensor, g: Tensor, reduction: str = "mean") -> Tensor:
    """A loss whose gradient at samples ``x`` (B, …) is ``g``, without differentiating ``g``.

    Arguments:
        x: samples (B, …) that carry the student's graph.
        g: what their gradient shall be, of the same shape; it is not differentiated.
        reduction: ``mean`` divides by the number of elements, ``sum`` by the number of samples alone.

    Returns:
        ``|x - sg[x - g]|^2 / 2``, a scalar (Poole et al., 2022, arXiv 2209.14988, and after).
    """
    half = 0.5 * (x - (x - g).detach()).square()
    return half.mean() if reduction == "mean" else half.flatten(1).sum(1).mean()
