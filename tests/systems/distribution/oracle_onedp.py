"""The losses of onedp, from Wang et al., 2024 (arXiv 2410.21257), eq. 3-8."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.written import between, preserving, pulled


def actions(given: Given) -> Tensor:
    """``G(z, o)``, or ``G(0, o)`` of the deterministic form."""
    t, z = given.at(given.options["first_time"]), given.draws("samples").normal(*given.shape)
    level = given.process.sigma(t)[0] if given.options["form"] == "stochastic" else 0.0
    return given.student(level * z, t, given.cond).x0


def times(given: Given, shares: Tensor) -> Tensor:
    return between(given, given.options["score_t_min"], given.options["score_t_max"], shares)


def student_loss(given: Given) -> Tensor:
    """``sigma alpha (eps_real - eps_own)``; a point's own noise is the one that was added."""
    a, own = actions(given), given.draws("student")
    t, eps = times(given, own.uniform()), own.normal(*given.shape)
    with torch.no_grad():
        noisy = given.noise(a, t, eps)
        if given.options["form"] == "stochastic":
            eps = given.net("fake")(noisy, t, given.cond).eps
        alpha, sigma = preserving(given, t, a)
        g = sigma * alpha * (given.teacher(noisy, t, given.cond).eps - eps)
    return pulled(a, g)


def fake_loss(given: Given) -> Tensor:
    a, own = actions(given).detach(), given.draws("fake")
    return given.denoising(given.net("fake"), a, times(given, own.uniform()), own.normal(*given.shape))


WHOLE = {"first_time": 0.8, "score_t_min": 0.1, "score_t_max": 0.9}
CASES = [
    Case(player, loss, process, kind, {**WHOLE, "form": form}, embedded=embedded, within=1)
    for form, player, loss in (
        ("stochastic", "student", student_loss),
        ("stochastic", "fake", fake_loss),
        ("deterministic", "student", student_loss),
    )
    for process, kind, embedded in (
        (Flow(), "velocity", False),
        (Cosine(), "eps", True),
        (VE(), "edm", False),
    )
]
