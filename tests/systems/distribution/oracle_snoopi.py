"""The losses of snoopi, from Nguyen et al., 2024 (arXiv 2412.02687), sections 4.1-4.3."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import ROWS, Case, Given
from tests.systems.written import between, noise_error, preserving, pulled, simulated


def scale(given: Given) -> float:
    """One for the iteration, of both scores."""
    return given.draws("guidance").one_uniform(given.options["low_guidance"], given.options["high_guidance"])


def negative(given: Given) -> tuple[dict[str, Tensor], float]:
    """The prompts of other rows, and their weight."""
    own = given.draws("negative")
    weight = own.one_uniform(0.0, given.options["nasa"])
    shift = own.one_integer(1, ROWS)
    return {name: part.roll(-shift, 0) for name, part in given.cond.items()}, weight


def samples(given: Given) -> Tensor:
    """The student's, whose attention to the negative prompt is taken away from that to its own."""
    if given.options["nasa"]:
        other, weight = negative(given)
        taken = {f"negative_{name}": part for name, part in other.items()}
        given = replace(given, cond={**given.cond, **taken, "negative_weight": torch.full((ROWS,), weight)})
    return simulated(given, [given.options["first_time"]], given.draws("samples"))


def student_loss(given: Given) -> Tensor:
    """``sigma^2 (eps_real - eps_fake)``; the teacher alone is guided away from the negative prompt."""
    x, own, fake, w = samples(given), given.draws("student"), given.net("fake"), scale(given)
    t = between(given, given.options["score_t_min"], given.options["score_t_max"], own.uniform())
    with torch.no_grad():
        x_t = given.noise(x, t, own.normal(*given.shape))
        if given.options["nasa"]:
            away = given.teacher(x_t, t, negative(given)[0]).eps
            real = away + w * (given.teacher(x_t, t, given.cond).eps - away)
        else:
            real = given.guided(given.teacher, x_t, t, w, "eps")
        g = preserving(given, t, x)[1] ** 2 * (real - given.guided(fake, x_t, t, w, "eps"))
    return pulled(x, g)


def fake_loss(given: Given) -> Tensor:
    return noise_error(given, samples(given).detach(), given.draws("fake"), scale(given))


WHOLE = {
    "low_guidance": 1.5,
    "high_guidance": 4.5,
    "dropout": 0.0,
    "first_time": 0.8,
    "score_t_min": 0.1,
    "score_t_max": 0.9,
}
NEGATIVE = {"rank": 2, "lora_alpha": 5.0, "nasa": 0.7}
# prompts of tokens, and a network that cross-attends to them
TOKENS = {
    "world": {"name": "shapes"},
    "network": {"name": "mlp", "dim": 3072, "width": 16, "depth": 2, "token_dim": 48},
}
# in the first iteration the fake moves alone
CASES = [
    *(
        Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded, within=1)
        for player, loss in (("student", student_loss), ("fake", fake_loss))
        for process, kind, embedded, more in (
            (Cosine(), "v", True, {"rank": 0}),
            (VE(), "edm", False, {"rank": 0, "dropout": 1.0}),
        )
    ),
    *(
        Case(player, loss, Flow(), "velocity", {**WHOLE, **NEGATIVE}, within=1, **TOKENS)
        for player, loss in (("student", student_loss), ("fake", fake_loss))
    ),
]
