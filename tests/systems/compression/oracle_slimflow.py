"""The losses of slimflow, from Zhu, Liu & Liu, 2024 (arXiv 2407.12718): annealing reflow and flow-guided
distillation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow
from tests.systems.oracle import Case, Given
from tests.systems.written import DISTANCES, guided_pairs, over


def pairs(given: Given) -> dict[str, Tensor]:
    """Noise, and where the guided teacher's ODE ends, on the teacher's own process."""
    there = replace(given, process=given.teacher.process)
    return guided_pairs(there, given.draws("bank"), given.options["pair_steps"])


def drawn_pairs(given: Given, own: Draws) -> tuple[Tensor, Tensor, Any]:
    """Noise, image and condition; half of the pairs mirrored, both parts alike."""
    eps, x = given.bank["eps"], given.bank["x"]
    if given.options["flip"]:
        keep = over(own.uniform(), x) >= 0.5
        eps, x = (torch.where(keep, v, v.flip(-1)) for v in (eps, x))
    return eps, x, given.bank["cond"]


def reflow_loss(given: Given) -> Tensor:
    own = given.draws("student")
    eps, x, cond = drawn_pairs(given, own)
    fading = given.options["anneal"] * round(given.options["reflow_share"] * TOTAL)
    beta = max(0.0, 1 - given.within / fading) if fading else 0.0
    mixed = (1 - beta**2) ** 0.5 * eps + beta * own.normal(*given.shape)
    t = 1e-3 + (1 - 1e-3) * own.uniform()
    x_t = (1 - over(t, x)) * x + over(t, x) * mixed
    return (given.student(x_t, t, cond).velocity - (mixed - x)).square().mean()


def distillation_loss(given: Given) -> Tensor:
    own, weight, one = given.draws("student"), given.options["guide_weight"], given.at(1.0)
    distance, guide = DISTANCES[given.options["distance"]], given.net("frozen.guide")
    eps, x, cond = drawn_pairs(given, own)
    loss = distance(eps - given.student(eps, one, cond).velocity, x)
    if not weight:
        return loss
    eps = own.normal(*given.shape)
    p, a = given.student(eps, one, given.cond).velocity, 0.2 + 0.6 * own.uniform()
    with torch.no_grad():
        first = p if given.options["own_half"] else guide(eps, one, given.cond).velocity
        middle = eps - over(a, eps) * first
        y = middle - (1 - over(a, eps)) * guide(middle, 1 - a, given.cond).velocity
    return loss + weight * distance(eps - p, y)


TOTAL = 24
STORED = {"pairs": 32, "pair_steps": 4, "guidance": 2.5}
ANNEALED = {**STORED, "reflow_share": 0.4, "anneal": 0.5}
CASES = [
    Case(player, loss, process, kind, {**STORED, **options}, embedded, number, within, total=TOTAL)
    for player, loss, process, kind, options, embedded, number, within in (
        ("bank", pairs, Flow(), "velocity", {}, False, 0, 0),
        ("bank", pairs, VE(), "edm", {}, False, 0, 0),
        ("bank", pairs, Cosine(), "v", {"pair_steps": 3}, True, 0, 0),
        ("student", reflow_loss, VE(), "edm", ANNEALED, False, 0, 3),
        ("student", reflow_loss, Flow(), "velocity", {"flip": True, "anneal": 0.0}, True, 0, 1),
        ("student", distillation_loss, Cosine(), "v", {"guide_weight": 0.4, "flip": True}, False, 1, 3),
        ("student", distillation_loss, VE(), "edm", {"own_half": False, "distance": "l1"}, False, 1, 0),
        (
            "student",
            distillation_loss,
            Flow(),
            "velocity",
            {"guide_weight": 0.0, "distance": "huber"},
            True,
            1,
            0,
        ),
    )
]
