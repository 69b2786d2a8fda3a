"""The losses of swiftbrush, from Nguyen & Tran, 2023 (arXiv 2312.05239), eq. 7-8, with the weights of its
code."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.written import between, noise_error, preserving, pulled, simulated


def samples(given: Given) -> Tensor:
    return simulated(given, [given.options["first_time"]], given.draws("samples"))


def student_loss(given: Given) -> Tensor:
    """``sigma^2 (eps_real - eps_fake)``, both guided by the same scale."""
    options, x, own = given.options, samples(given), given.draws("student")
    t = between(given, options["score_t_min"], options["score_t_max"], own.uniform())
    with torch.no_grad():
        x_t = given.noise(x, t, own.normal(*given.shape))
        real, fake = (
            given.guided(net, x_t, t, options["guidance"], "eps")
            for net in (given.teacher, given.net("fake"))
        )
        g = preserving(given, t, x)[1] ** 2 * (real - fake)
    return pulled(x, g)


def fake_loss(given: Given) -> Tensor:
    return noise_error(given, samples(given).detach(), given.draws("fake"), given.options["guidance"])


WHOLE = {"guidance": 2.5, "dropout": 0.0, "first_time": 0.8, "score_t_min": 0.1, "score_t_max": 0.9}
# in the first iteration the fake moves alone
CASES = [
    Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded, within=1)
    for player, loss in (("student", student_loss), ("fake", fake_loss))
    for process, kind, embedded, more in (
        (Flow(), "velocity", False, {"rank": 2, "lora_alpha": 5.0}),
        (Cosine(), "v", True, {"rank": 0}),
        (VE(), "edm", False, {"rank": 0, "dropout": 1.0}),
    )
]
