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

FIRST = 1e-3  # the first step of a table of 1000: below it there is no noise to tell


def lora_fake(teacher: Denoiser, student: Denoiser, rank: int, alpha: float) -> Denoiser:
    """The fake score: an adapter of ``rank`` on the frozen teacher's query and value projections, of strength
    ``alpha / rank``.

    It has no effect at first. An :class:`Adapted` teacher gives one of its own making; ``rank`` 0 and a
    closed-form teacher a full copy.
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
    """Where ``x`` (B, …) should go *down*: ``sigma^2 (eps_real - eps_fake)`` at ``x`` noised to ``t`` (B,)
    with ``eps``.

    ``real`` and ``fake`` come under the same guidance: it then cancels where the two agree, and what is left
    is the gradient of a KL divergence between guided densities. ``sigma^2`` is meant on a variance-preserving
    process (:func:`noise_share`), no sample is normalised by its own size. Without gradient; NaN becomes 0.
    (SwiftBrush, eq. 7, with the weight of its code.)
    """
    return sds_gradient(x, t, eps, real, fake, cond, "sigma2", cond)


def fake_denoising(fake: Denoiser, x: Tensor, t: Tensor, eps: Tensor, cond: Condition = None) -> Tensor:
    """``mean alpha^2 (eps_fake - eps)^2`` on ``x`` (B, …) noised to ``t`` with ``eps``; ``alpha^2`` is 1 -
    :func:`noise_share`."""
    pred = fake(fake.process.noise(x, t, eps), t, cond)
    return ((1 - noise_share(pred.at)) * (pred.eps - eps) ** 2).mean()


def fake_times(process: Process, draws: Draws) -> Tensor:
    """Times of the fake's own lessons: all of them but the clean end."""
    return uniform(process, draws, FIRST, 1.0)
