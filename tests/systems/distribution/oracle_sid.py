"""The losses of sid, from Zhou et al., 2024 (arXiv 2404.04057), eq. 23 and algorithm 1, and their guidance
(arXiv 2406.01561)."""

from __future__ import annotations

from torch import Tensor

from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import between, simulated, steps_up


def student_loss(given: Given) -> Tensor:
    """``w delta (D_teacher - x - mix delta)``; only ``w`` has no gradient."""
    options, own = given.options, given.draws("student")
    x = simulated(given, [options["first_time"]], own)
    t = between(given, options["score_t_min"], options["score_t_max"], own.uniform())
    x_t = given.noise(x, t, own.normal(*given.shape))
    real = given.guided(given.teacher, x_t, t, options["guidance"])
    delta = real - given.guided(given.net("fake"), x_t, t, options["guidance"])
    w = 1 / (x - real).abs().mean(1, keepdim=True).detach()
    return (w * delta * (real - x - options["mix"] * delta)).mean()


def fake_loss(given: Given) -> Tensor:
    """The guided fake fits the samples."""
    options, own = given.options, given.draws("fake")
    x = simulated(given, [options["first_time"]], own).detach()
    if options["fake_times"] == "edm":
        t = steps_up(given, given.process.time(1.2 - 1.2 * own.normal()))  # ln sigma ~ N(-1.2, 1.2^2)
    elif options["fake_times"] == "logit_normal":
        t = own.normal().sigmoid()
    else:
        t = between(given, 0, 1, own.uniform())
    eps = own.normal(*given.shape)
    return given.denoising(given.net("fake"), x, t, eps, options["guidance"])


WHOLE = {"guidance": 2.5, "mix": 1.3, "first_time": 0.8, "score_t_min": 0.1, "score_t_max": 0.9}
CASES = [
    Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded)
    for player, loss in (("student", student_loss), ("fake", fake_loss))
    for process, kind, embedded, more in (
        (Flow(), "velocity", False, {"fake_times": "logit_normal"}),
        (Cosine(), "v", True, {}),
        (VE(), "edm", False, {"fake_times": "edm", "first_time": 0.6}),
        (ScaledLinearVP(), "eps", False, {"fake_times": "edm", "first_time": 0.4}),
    )
]
