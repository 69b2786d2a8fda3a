"""Variational score distillation: a difference of two scores under one guidance, the fake one a low-rank
adapter on the teacher.

Wang et al., 2023 (arXiv 2305.16213), in the one-step form of Nguyen & Tran, 2023 (arXiv 2312.05239).
"""

from __future__ import annotations

from torch import Tensor

from stillhouse.adapters import Adapted, adapted
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.process import Process
from stillhouse.parts.gaps.score import fake_for, noise_share, sds_gradient
from stillhouse.parts.states.time_sampler import uniform

FIRST = 1e-3  # the first step of a table of 1000: below it there is no noise to estimate


def lora_fake(teacher: Denoiser, student: Denoiser, rank: int, alpha: float) -> Denoiser:
    """The fake score: a low-rank adapter on the frozen teacher's query and value projections, without effect
    at first.

    Arguments:
        teacher: the adapter's base; an :class:`Adapted` one gives another adapter on its own base, a closed
            form is replaced by a copy of the student.
        student: see ``teacher``.
        rank: of the adapter; 0 for a full copy of the teacher.
        alpha: the adapter's strength is ``alpha / rank``.

    Returns:
        The trainable fake score.
    """
    if isinstance(teacher, Adapted) or isinstance(teacher, ExactDenoiser) or rank == 0:
        return fake_for(teacher, student)
    named = {name.rpartition(".")[2] for name, _ in teacher.net.named_modules()}
    # Diffusers' names, which let key and output be left alone; our networks keep keys and values in one layer
    targets = ("to_q", "to_v") if {"to_q", "to_v"} <= named else "attention"
    return adapted(teacher, rank, alpha=alpha, targets=targets).copy()


def vsd_gradient(
    x: Tensor, t: Tensor, eps: Tensor, real: Denoiser, fake: Denoiser, cond: Condition = None
) -> Tensor:
    """Where ``x`` should go *down*: ``sigma^2 (eps_real - eps_fake)`` at ``x`` noised to ``t`` with ``eps``.

    ``real`` and ``fake`` come under the same guidance: it then cancels where the two agree, and what is left
    is the gradient of a KL divergence between guided densities. ``sigma^2`` is meant on a variance-preserving
    process (:func:`noise_share`), no sample is normalised by its own size. Without gradient; NaN becomes 0.
    (SwiftBrush, eq. 7, with the weight of its code.)

    Arguments:
        x: samples, (B, *shape).
        t: times in [0, 1], (B,).
        eps: standard normal noise, (B, *shape).
        real: the teacher, under its guidance.
        fake: the score of the student's samples, under the same guidance.
        cond: the condition of the B rows; None for none.

    Returns:
        The gradient, (B, *shape).
    """
    return sds_gradient(x, t, eps, real, fake, cond, "sigma2", cond)


def fake_denoising(fake: Denoiser, x: Tensor, t: Tensor, eps: Tensor, cond: Condition = None) -> Tensor:
    """The fake score's own loss, ``mean alpha^2 (eps_fake - eps)^2``; ``alpha^2`` is 1 - :func:`noise_share`.

    Arguments:
        fake: the network that learns.
        x: the student's samples, (B, *shape).
        t: times in [0, 1], (B,).
        eps: standard normal noise, (B, *shape).
        cond: the condition of the B rows; None for none.

    Returns:
        A scalar.
    """
    pred = fake(fake.process.noise(x, t, eps), t, cond)
    return ((1 - noise_share(pred.at)) * (pred.eps - eps) ** 2).mean()


def fake_times(process: Process, draws: Draws) -> Tensor:
    """Times at which the fake score is trained: all of them but the clean end.

    Arguments:
        process: whose ``t_min`` begins the range.
        draws: the source of randomness.

    Returns:
        Uniform times, (rows,).
    """
    return uniform(process, draws, FIRST, 1.0)
