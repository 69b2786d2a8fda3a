"""The losses of flash_diffusion, from Chadebec et al., 2024 (arXiv 2406.02347), algorithm 1."""

from __future__ import annotations

from math import exp

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import DISTANCES, Clean, ddim, ddim_walk, falling, heun_walk, published, pulled

TOTAL = 24
# of the four equal parts of the run: shares of the starts, weights of the other two terms
BETA = [[0, 0, 0.5, 0.5], [0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25], [0.4, 0.2, 0.2, 0.2]]
MATCHING, ADVERSARIAL = [0, 0.3, 0.5, 0.7], [0, 0.1, 0.2, 0.3]


def part(given: Given) -> int:
    return given.step // (TOTAL // 4)


def grid(given: Given) -> list[float]:
    times = torch.tensor(falling(given, 1.0, given.options["grid"]), dtype=torch.float64)
    return [*given.process.on_table(times).tolist(), 0.0]


def start_index(given: Given, player: str) -> int:
    """One for the batch, of ``p(j) ~ sum_m beta_m exp(-(j - m K / 4)^2 / 0.5)``."""
    count, beta = given.options["grid"], BETA[part(given)]
    p = [sum(b * exp(-((j - m * count // 4) ** 2) / 0.5) for m, b in enumerate(beta)) for j in range(count)]
    u, below = given.draws(f"{player} start").one_uniform(), 0.0
    for j in range(count):
        below += p[j] / sum(p)
        if u < below:
            return j
    raise AssertionError


def estimate(given: Given, player: str, own: Draws) -> tuple[Tensor, int, Tensor]:
    """The state, the index of its time, and the student's clean estimate."""
    j, eps = start_index(given, player), own.normal(*given.shape)
    t = given.at(grid(given)[j])
    x_t = given.process.sigma(t)[:, None] * eps if j == 0 else given.noise(given.x, t, eps)
    return x_t, j, given.student(x_t, t, given.cond).x0


def scale(given: Given, purpose: str) -> float:
    low, high = given.options["low_guidance"], given.options["high_guidance"]
    return given.draws(f"student {purpose}").one_uniform(low, high)


@torch.no_grad()
def endpoint(given: Given, x: Tensor, times: list[float]) -> Tensor:
    """Where the guided teacher's solver ends."""
    w = scale(given, "endpoint")

    def clean(x: Tensor, t: Tensor) -> Tensor:
        return given.guided(given.teacher, x, t, w)

    if given.options["solver"] == "dpm++":
        return dpm_solver(given, clean, x, times)
    if given.options["solver"] == "heun":
        return heun_walk(given, clean, x, times)
    return ddim_walk(given, clean, x, times)


def dpm_solver(given: Given, clean: Clean, x: Tensor, times: list[float]) -> Tensor:
    """DPM-Solver++ (2M): ``D + h (D - D_before) / (2 h_before)`` in the place of ``D``, but in the first and
    the last step."""
    before, h_before = None, torch.tensor(1.0)
    for t, s in zip(times, times[1:], strict=False):
        here, there = given.at(t), given.at(s)
        h = given.process.log_snr(there)[0] - given.process.log_snr(here)[0]
        now = clean(x, here)
        use = now if before is None or s == times[-1] else now + h / (2 * h_before) * (now - before)
        x, before, h_before = ddim(given, x, here, there, use), now, h
    return x


def probabilities(given: Given, samples: list[Tensor], own: Draws) -> list[Tensor]:
    """``s(h(f))`` of samples that are noised alike, on the teacher's features."""
    steps = torch.tensor([0.01, 0.25, 0.5, 0.75], dtype=torch.float64)
    t, eps = published(given, steps)[own.integers(0, 4)], own.normal(*given.shape)
    features = [given.middle(given.teacher, given.noise(x, t, eps), t) for x in samples]
    return [torch.sigmoid(given.net("critic")(f)) for f in features]


def student_loss(given: Given) -> Tensor:
    own, k = given.draws("student"), part(given)
    x_t, j, x = estimate(given, "student", own)
    target = endpoint(given, x_t, grid(given)[j:])
    loss = DISTANCES[given.options["distance"]](x, target)
    if MATCHING[k]:
        t, eps = published(given, own.integers(0, 1000).double() / 1000), own.normal(*given.shape)
        with torch.no_grad():
            x_t = given.noise(x, t, eps)
            real = given.guided(given.teacher, x_t, t, scale(given, "matching"))
            g = given.student(x_t, t, given.cond).x0 - real
            g = g / (x - real).abs().mean(1, keepdim=True)
        loss = loss + 2 * given.options["matching"] / 0.7 * MATCHING[k] * pulled(x, g)
        (fake,) = probabilities(given, [x], own)
        loss = loss + given.options["adversarial"] / 0.3 * ADVERSARIAL[k] * (fake - 1).square().mean()
    return loss


def critic_loss(given: Given) -> Tensor:
    own = given.draws("critic")
    _, _, x = estimate(given, "critic", own)
    real, fake = probabilities(given, [given.x, x.detach()], own)
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


TERMS = {"grid": 8, "low_guidance": 2.0, "high_guidance": 5.0, "matching": 0.9, "adversarial": 0.5}
CASES = [
    Case("student", student_loss, process, kind, {**TERMS, **more}, embedded, within=within)
    for process, kind, embedded, within, more in (
        (Flow(), "velocity", False, 2, {"solver": "heun", "distance": "l1"}),
        (Flow(), "velocity", False, 23, {"solver": "ddim"}),
        (Cosine(), "v", True, 7, {"distance": "huber", "solver": "dpm++"}),
        (VE(), "edm", False, 12, {"solver": "dpm++"}),
        (ScaledLinearVP(), "eps", False, 18, {"solver": "ddim"}),
    )
] + [
    Case("critic", critic_loss, process, kind, TERMS, embedded, within=within)
    for process, kind, embedded, within in (
        (VE(), "edm", False, 23),
        (ScaledLinearVP(), "v", True, 11),
    )
]
