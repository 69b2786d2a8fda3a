"""The losses of msd's stages, each of one part of the conditions, from Song et al., 2024 (arXiv 2410.23274),
section 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stillhouse.core.schedules import VE, Cosine, Flow
from stillhouse.systems.distribution.msd import Matching, ScoreMatching
from stillhouse.train.method import Method
from tests.systems.oracle import Case, Given
from tests.systems.written import between, critic_error, guided_pairs, logits, matched, once, simulated

EVERYONE = torch.tensor([6, 0, 3, 5, 1])  # the labels of all parts together


def stage(kind: Callable[..., Any]) -> Callable[..., Method]:
    """What makes a part's method; the program's own options are left away."""

    def make(students: int, width: int, **options: Any) -> Method:
        method: Any = kind(**{k: v for k, v in options.items() if k in kind.__dataclass_fields__})
        method.everyone = EVERYONE
        return method

    return make


# -- teacher score matching --------------------------------------------------------------------------


def pairs_of_the_part(given: Given) -> dict[str, Tensor]:
    return guided_pairs(given, given.draws("bank"), given.options["pair_steps"])


def score_matching(given: Given) -> Tensor:
    """``lambda |D_student - D_teacher|^2`` with the weight of the network's kind: of the noise, of ``v``, of
    a flow's velocity, or of EDM."""
    own, cond = given.draws("student"), given.bank["cond"]
    t, eps = between(given, 0, 1, own.uniform()), own.normal(*given.shape)
    x_t = given.noise(given.bank["x"], t, eps)
    alpha, sigma = given.process.alpha(t)[:, None], given.process.sigma(t)[:, None]
    name = type(given.student.kind).__name__
    weight = {"V": 1 / sigma**2, "Velocity": 1 / sigma**2, "Eps": (alpha / sigma) ** 2}.get(name)
    if weight is None:
        data = given.student.kind.sigma_data
        weight = (sigma**2 + data**2) / (sigma * data) ** 2
    with torch.no_grad():
        given.cond = cond
        answer = given.guided(given.teacher, x_t, t, given.options["guidance"])
    return (weight * (given.student(x_t, t, cond).x0 - answer).square()).mean()


# -- distribution matching, and with a critic --------------------------------------------------------


def pairs_of_all(given: Given) -> dict[str, Tensor]:
    own = given.draws("bank")
    given.cond = EVERYONE[own.integers(0, len(EVERYONE))]
    return guided_pairs(given, own, given.options["pair_steps"])


def samples(given: Given) -> Tensor:
    return simulated(given, [given.options["first_time"]], given.draws("samples"))


def student_loss(given: Given) -> Tensor:
    options, x, own, pair = given.options, samples(given), given.draws("student"), given.bank
    loss = matched(given, x, own, options["score_t_min"], options["score_t_max"])
    if options["regression_weight"]:
        gap = once(given, pair["eps"], pair["cond"]) - pair["x"]
        loss = loss + options["regression_weight"] * gap.square().mean()
    if options["gan_weight"]:
        loss = loss + options["gan_weight"] * softplus(-logits(given, x, own)).mean()
    return loss


def fake_loss(given: Given) -> Tensor:
    options, x, own = given.options, samples(given).detach(), given.draws("fake")
    t, eps = between(given, 0, 1, own.uniform()), own.normal(*given.shape)
    loss = given.denoising(given.net("fake"), x, t, eps)
    if options["gan_weight"]:
        loss = loss + options["critic_weight"] * critic_error(given, x, own)
    return loss


SCORES = {"guidance": 2.5, "pairs": 6, "pair_steps": 3}
WHOLE = {
    **SCORES,
    "regression_weight": 0.3,
    "gan_weight": 0.4,
    "critic_weight": 0.7,
    "first_time": 0.8,
    "score_t_min": 0.1,
    "score_t_max": 0.9,
}
MATCHING, SCORING = stage(Matching), stage(ScoreMatching)
CASES = [
    *(
        Case("student", score_matching, process, kind, SCORES, embedded, method=SCORING)
        for process, kind, embedded in (
            (Flow(), "velocity", False),
            (Cosine(), "v", True),
            (Cosine(), "eps", False),
            (VE(), "edm", False),
        )
    ),
    Case("bank", pairs_of_the_part, Flow(), "velocity", SCORES, method=SCORING),
    *(
        Case(player, loss, process, kind, {**WHOLE, **more}, embedded, method=MATCHING)
        for player, loss in (("student", student_loss), ("fake", fake_loss))
        for process, kind, embedded, more in (
            (Flow(), "velocity", False, {}),
            (Cosine(), "v", True, {"regression_weight": 0.0}),
            (VE(), "edm", False, {"gan_weight": 0.0}),
        )
    ),
    Case("bank", pairs_of_all, Flow(), "velocity", WHOLE, method=MATCHING),
    Case("bank", pairs_of_all, VE(), "edm", WHOLE, embedded=True, method=MATCHING),
]
