"""The losses of ibmd, from Gushchin et al., 2025 (arXiv 2502.01362), section 3. States are residuals
``x - x_1``."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.bridge import I2SB, Brownian, ResShift
from stillhouse.core.draws import Draws
from tests.systems.oracle import Case, Given
from tests.systems.written import between, falling


def samples(given: Given, own: Draws) -> Tensor:
    """The generator's answers ``G(x_t, z)``, by a random number of its calls on the way of its own sampler:
    from the degraded picture down by the bridge's posterior."""
    options, bridge = given.options, given.process
    calls = given.draws("depth").one_integer(1, options["steps"] + 1)
    times = falling(given, 1.0, options["steps"])[:calls]
    x_t = bridge.sigma(given.at(1.0)[:1]) * own.normal(*given.shape)
    for k, t in enumerate(times):
        with torch.set_grad_enabled(k == calls - 1):
            z = options["noise"] * own.normal(*given.shape)
            x = given.student(x_t + z, given.at(t), given.cond).x0
            if k < calls - 1:
                here, there = (bridge.eta(given.at(s)[:1]) for s in (t, times[k + 1]))
                mean = x + there / here * (x_t - x)
                std = bridge.kappa * (there * (here - there) / here).sqrt()
                x_t = mean + std * own.normal(*given.shape)
    return x


def between_both(given: Given, own: Draws) -> Tensor:
    return between(given, given.options["score_t_min"], given.options["score_t_max"], own.uniform())


def student_loss(given: Given) -> Tensor:
    """The teacher's error less the auxiliary's; the gradient also passes through the state."""
    own = given.draws("student")
    x = samples(given, own)
    t = between_both(given, own)
    x_t = given.noise(x, t, own.normal(*given.shape))
    real = given.teacher(x_t, t, given.cond).x0
    fake = given.net("fake")(x_t, t, given.cond).x0
    return (real - x).square().mean() - given.options["spread"] * (fake - x).square().mean()


def fake_loss(given: Given) -> Tensor:
    own = given.draws("fake")
    x = samples(given, own).detach()
    t = between_both(given, own)
    x_t = given.noise(x, t, own.normal(*given.shape))
    return (given.net("fake")(x_t, t, given.cond).x0 - x).square().mean()


WHOLE = {"noise": 0.8, "spread": 0.7, "score_t_min": 0.1, "score_t_max": 0.9}
CASES = [
    Case(player, loss, process, "x0", {**WHOLE, "steps": steps}, embedded=embedded)
    for player, loss in (("student", student_loss), ("fake", fake_loss))
    for process, steps, embedded in (
        (Brownian(0.6), 3, False),
        (I2SB(), 3, True),
        (ResShift(), 1, False),
    )
]
