"""Score differences: moving a student's samples along what two denoisers disagree on."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.prediction import At, Prediction


def fake_for(teacher: Denoiser, student: Denoiser) -> Denoiser:
    """A network to become the fake score: the teacher's copy, or the student's where the teacher is a closed
    form.

    Arguments:
        teacher: network or closed form.
        student: copied in the place of a closed form.

    Returns:
        A trainable copy; of an adapter on a base, another adapter on that base.
    """
    return student.copy() if isinstance(teacher, ExactDenoiser) else teacher.copy()


def difference(
    x: Tensor, t: Tensor, eps: Tensor, real: Denoiser, fake: Denoiser | None, cond: Condition = None
) -> tuple[Tensor, Prediction]:
    """``D_own - D_real``: by how much two posterior means differ at ``x`` noised to ``t`` with ``eps``.
    Without gradient.

    Times ``alpha / sigma^2`` it is the difference of two scores, times ``alpha / sigma`` that of two noises.

    Arguments:
        x: samples, (B, *shape).
        t: times in [0, 1], (B,).
        eps: standard normal noise, (B, *shape).
        real: the teacher.
        fake: gives ``D_own`` under the same condition; None: ``D_own = x``, the posterior mean where each
            ``x`` is the only sample there is.
        cond: the condition of the B rows; None for none.

    Returns:
        The difference, (B, *shape), and the prediction of ``real``.
    """
    with torch.no_grad():
        x_t = real.process.noise(x, t, eps)
        pred = real(x_t, t, cond)
        own = x if fake is None else fake(x_t, t, cond).x0
        return own - pred.x0, pred


def dmd_gradient(
    x: Tensor, t: Tensor, eps: Tensor, real: Denoiser, fake: Denoiser, cond: Condition = None
) -> Tensor:
    """Where ``x`` should go *down*: ``(D_fake - D_real) / mean|x - D_real|`` at ``x`` renoised to ``t`` with
    ``eps``.

    Up to a positive weight this is the gradient of ``KL(p_student,t || p_teacher,t)``, since ``s_fake -
    s_real = alpha (D_fake - D_real) / sigma^2``. The normaliser is one number a sample. Without gradient; NaN
    becomes 0. (Yin et al., 2023, arXiv 2311.18828, eq. 7-8.)

    Arguments:
        x: samples, (B, *shape).
        t: times in [0, 1], (B,).
        eps: standard normal noise, (B, *shape).
        real: the teacher, under its guidance.
        fake: the score of the student's samples.
        cond: the condition of the B rows; None for none.

    Returns:
        The gradient, (B, *shape).
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
    """Where views ``x`` should go *down*: ``w(t) (eps_real - eps_B)`` at ``x`` noised to ``t`` with ``eps``.

    With ``eps_B = eps`` and the ratio as the weight this is ``x - D(x_t)``. Without gradient; NaN becomes 0.

    Arguments:
        x: samples or views, (B, *shape).
        t: times in [0, 1], (B,).
        eps: the noise of the states, (B, *shape).
        real: the teacher, under its guidance.
        fake: whose estimate of the noise is ``eps_B``; None: ``eps`` itself.
        cond: the teacher's condition of the B rows; None for none.
        weight: ``w``, a name in :data:`SCORE_WEIGHTS`.
        fake_cond: the condition of ``fake``; None for none.

    Returns:
        The gradient, (B, *shape).
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
