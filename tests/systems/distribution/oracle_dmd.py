"""The losses of dmd, from Yin et al., 2023 (arXiv 2311.18828), eq. 7-8 and algorithm 1."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import DISTANCES, between, guided_pairs, matched, once, simulated


def pairs(given: Given) -> dict[str, Tensor]:
    """Noise, and where the guided teacher's ODE leads from it."""
    return guided_pairs(given, given.draws("bank"), given.options["pair_steps"])


def samples(given: Given) -> Tensor:
    return simulated(given, [given.options["first_time"]], given.draws("samples"))


def student_loss(given: Given) -> Tensor:
    options, own, pair = given.options, given.draws("student"), given.bank
    matching = matched(given, samples(given), own, options["score_t_min"], options["score_t_max"])
    gap = DISTANCES[options["distance"]](once(given, pair["eps"], pair["cond"]), pair["x"])
    return options["matching_weight"] * matching + options["regression_weight"] * gap


def matching_alone(given: Given) -> Tensor:
    """Without pairs."""
    given.bank = {"eps": torch.zeros(6, 2).double(), "x": torch.zeros(6, 2).double(), "cond": given.cond}
    return student_loss(given)


def fake_loss(given: Given) -> Tensor:
    own, x = given.draws("fake"), samples(given).detach()
    t = between(given, 0, 1, own.uniform())
    return given.denoising(given.net("fake"), x, t, own.normal(*given.shape))


WHOLE = {
    "guidance": 2.5,
    "matching_weight": 0.6,
    "regression_weight": 0.3,
    "pairs": 6,
    "pair_steps": 3,
    "first_time": 0.8,
    "score_t_min": 0.1,
    "score_t_max": 0.9,
}
CASES = [
    *(
        Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded)
        for player, loss in (("student", student_loss), ("fake", fake_loss))
        for process, kind, embedded, more in (
            (Flow(), "velocity", False, {}),
            (Cosine(), "v", True, {"distance": "huber"}),
            (VE(), "edm", False, {"distance": "l1", "first_time": 1.0}),
            (ScaledLinearVP(), "eps", False, {"first_time": 0.4}),
        )
    ),
    Case("student", matching_alone, Flow(), "x0", {**WHOLE, "regression_weight": 0.0}),
    Case("bank", pairs, Flow(), "velocity", WHOLE),
    Case("bank", pairs, Flow(), "x0", WHOLE, embedded=True),
    Case("bank", pairs, VE(), "edm", WHOLE),
]
