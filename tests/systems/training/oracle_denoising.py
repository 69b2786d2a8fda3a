"""The loss of denoising, from Ho et al., 2020 (arXiv 2006.11239), with hidden conditions (Ho & Salimans,
2022, arXiv 2207.12598); of tokens from Sahoo et al., 2024 (arXiv 2406.07524, eq. 10)
and Schiff et al., 2024 (arXiv 2412.10193, eq. 21)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stillhouse.core.bridge import ResShift
from stillhouse.core.discrete import Masked, Uniform
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import ROWS, Case, Given
from tests.systems.written import between

NOT_EMBEDDED = NO_GUIDANCE = "there is no teacher; the scale is that of samples alone"


def times(given: Given, own: Draws) -> Tensor:
    """Uniform; ``sigmoid(z)``; or EDM's ``ln(sigma / alpha) ~ N(-1.2, 1.2^2)``."""
    low, law = given.process.t_min, given.options["times"]
    if law == "uniform":
        t = between(given, 0, 1, own.uniform())
    elif law == "logit_normal":
        t = torch.sigmoid(own.normal()).clamp_min(low)
    else:
        t = given.process.time(1.2 - 1.2 * own.normal()).clamp(low, 1 - 1e-6)
    return given.process.on_table(t)


def student_loss(given: Given) -> Tensor:
    """Denoising, of rows without their condition and rows with it."""
    own = given.draws("student")
    t, eps = times(given, own), own.normal(*given.shape)
    gone = own.uniform() < given.options["label_dropout"]
    assert 0 < int(gone.sum()) < ROWS
    if isinstance(given.cond, dict):  # the degraded sample of a bridge: nothing to hide
        return given.denoising(given.student, given.x, t, eps)
    loss = torch.zeros(())
    for rows, cond in ((gone, None), (~gone, given.cond[~gone])):
        part = replace(given, cond=cond).denoising(given.student, given.x[rows], t[rows], eps[rows])
        loss = loss + part * rows.sum() / ROWS
    return loss


def tokens_loss(given: Given) -> Tensor:
    """The bound in nats a token: at masks ``-alpha' / (1 - alpha) (-log p(x_0))``; of uniform tokens
    ``alpha' / (V alpha) (V / a_z - V / b_z - sum_j a_j / a_z log(b_z a_j / (b_j a_z)))`` with ``z = x_t``,
    ``a = V alpha x_0 + 1 - alpha`` and ``b`` the same of the prediction."""
    process, own, x, low = given.process, given.draws("student"), given.x, given.process.t_min
    t = low + (1 - low) * ((own.one_uniform() + torch.arange(ROWS).double() / ROWS) % 1)
    alpha, slope = process.alpha(t)[:, None], process.dalpha(t)[:, None]
    u = own.uniform(0, 1, *given.shape)
    if isinstance(process, Masked):
        hidden = u >= alpha
        x_t = torch.where(hidden, process.vocab, x)
        log_p = given.student(x_t, t, given.cond).raw[..., : process.vocab].log_softmax(-1)
        return (hidden * slope / (1 - alpha) * log_p.gather(-1, x[..., None])[..., 0]).mean()
    other = ((u - alpha) / (1 - alpha) * process.vocab).long()
    x_t = torch.where(u >= alpha, other, x)
    p = given.student(x_t, t, given.cond).raw.softmax(-1)
    whole = torch.nn.functional.one_hot(x, process.vocab)
    a, b = (process.vocab * alpha[..., None] * v + 1 - alpha[..., None] for v in (whole, p))
    a_z, b_z = (v.gather(-1, x_t[..., None]) for v in (a, b))
    inner = process.vocab / a_z - process.vocab / b_z
    inner = inner[..., 0] - (a / a_z * (b_z * a / (b * a_z)).log()).sum(-1)
    return (slope / (process.vocab * alpha) * inner).mean()


HIDDEN, TEXT = {"label_dropout": 0.5}, {"name": "text", "kind": "chain"}
CASES = [
    Case("student", student_loss, process, kind, {**HIDDEN, "times": times}, world=world)
    for process, kind, times, world in (
        (Flow(), "velocity", "logit_normal", {}),
        (Cosine(), "v", "uniform", {}),
        (ScaledLinearVP(), "eps", "edm", {}),
        (VE(), "edm", "edm", {}),
        (ResShift(), "scaled", "uniform", {"bridge": "told"}),
    )
] + [Case("student", tokens_loss, process, "logits", world=TEXT) for process in (Masked(6), Uniform(6))]
