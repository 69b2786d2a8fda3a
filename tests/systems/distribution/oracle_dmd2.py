"""The losses of dmd2, from Yin et al., 2024 (arXiv 2405.14867), sections 4.2-4.5."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.written import between, falling, pulled, simulated


def samples(given: Given) -> Tensor:
    """Down to a random one of the grid's times."""
    options = given.options
    calls = given.draws("depth").one_integer(1, options["steps"] + 1)
    times = falling(given, options["first_time"], options["steps"])[:calls]
    return simulated(given, times, given.draws("samples"), 1.0 if options["unit_noise"] else None)


def logits(given: Given, x: Tensor, own: Draws) -> Tensor:
    """The head's, on the middle block of the fake at ``x`` noised to any time."""
    t, eps = between(given, 0, 1, own.uniform()), own.normal(*given.shape)
    return given.net("fake", 1)(given.middle(given.net("fake"), given.noise(x, t, eps), t))


def student_loss(given: Given) -> Tensor:
    x, own = samples(given), given.draws("student")
    t, eps = between(given, 0.02, 0.98, own.uniform()), own.normal(*given.shape)
    with torch.no_grad():
        x_t = given.noise(x, t, eps)
        real = given.guided(given.teacher, x_t, t, given.options["guidance"])
        fake = given.net("fake")(x_t, t, given.cond).x0
        g = (fake - real) / (x - real).abs().mean(1, keepdim=True)
    return pulled(x, g) + given.options["gan_weight"] * softplus(-logits(given, x, own)).mean()


def fake_loss(given: Given) -> Tensor:
    x, own = samples(given).detach(), given.draws("fake")
    t, eps = between(given, 0, 1, own.uniform()), own.normal(*given.shape)
    denoising = given.denoising(given.net("fake"), x, t, eps)
    real, made = logits(given, given.x, own), logits(given, x, own)
    return denoising + given.options["critic_weight"] * (softplus(-real).mean() + softplus(made).mean())


WHOLE = {"steps": 3, "guidance": 2.5, "gan_weight": 0.3, "critic_weight": 0.7, "first_time": 0.8}
CASES = [
    Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded)
    for player, loss in (("student", student_loss), ("fake", fake_loss))
    for process, kind, embedded, more in (
        (Flow(), "velocity", False, {}),
        (Cosine(), "v", True, {}),
        (VE(), "edm", False, {"steps": 1}),
        (Cosine(), "eps", False, {"steps": 1, "unit_noise": True, "first_time": 0.4}),
    )
]
