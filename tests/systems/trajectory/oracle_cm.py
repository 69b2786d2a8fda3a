"""The loss of cm, from Song et al., 2023 (arXiv 2303.01469, algorithms 2 and 3), and of its improved form,
from Song & Dhariwal, 2023 (arXiv 2310.14189)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import ddim, heun, placed

TOTAL = 24


def size(given: Given) -> int:
    """``N(k)``: of section 5, doubling in stages of equal length, or constant."""
    done, first, last = given.step / TOTAL, given.options["first_levels"], given.options["levels"]
    if given.options["curriculum"] == "root":
        return math.ceil(math.sqrt(done * (last**2 - first**2) + first**2) - 1) + 1
    if given.options["curriculum"] == "doubling":
        s_0, s_1 = first - 1, last - 1
        length = TOTAL // (int(math.log2(s_1 // s_0)) + 1)
        return min(s_0 * 2 ** (given.step // length), s_1) + 1
    return last


def drawn(given: Given, grid: Tensor, own: Draws) -> Tensor:
    """The noisier of the two levels: any, or log-normally with mean -1.1 and deviation 2."""
    if not given.options["by_gap"]:
        return own.integers(0, len(grid) - 1)
    ratio = given.process.sigma(grid) / given.process.alpha(grid)
    reach = torch.erf((ratio.log() + 1.1) / (math.sqrt(2) * 2))
    return own.categorical((reach[:-1] - reach[1:]).clamp_min(0))


def distance(given: Given, a: Tensor, b: Tensor) -> Tensor:
    """Of each sample, as the option names it."""
    gap, dim = a - b, a[0].numel()
    c = 0.00054 * math.sqrt(dim)
    return {
        "l2": gap.square().mean(1),
        "l1": gap.abs().mean(1),
        "huber": (gap.square().sum(1) + c**2).sqrt() - c,
    }[given.options["distance"]]


def student_loss(given: Given) -> Tensor:
    options, own, last = given.options, given.draws("student"), size(given) - 1
    low, high = options["low_guidance"], options["high_guidance"]
    grid = placed(given, torch.linspace(1, given.process.t_min, last + 1))
    i = drawn(given, grid, own)
    t, u, eps = grid[i], grid[i + 1], own.normal(*given.shape)
    w = low + (high - low) * own.uniform() if low < high else high
    scale = {"guidance": w} if low < high else {}
    x_t = given.noise(given.x, t, eps)
    with torch.no_grad():

        def clean(x: Tensor, t: Tensor) -> Tensor:
            plain = high == 1 and not scale
            return given.teacher(x, t, given.cond).x0 if plain else given.guided(given.teacher, x, t, w)

        if options["source"] == "data":
            x_u = given.noise(given.x, u, eps)
        elif options["solver"] == "heun":
            x_u = heun(given, clean, x_t, t, u)
        else:
            x_u = ddim(given, x_t, t, u, clean(x_t, t))
        slow = given.net("ema.target")(x_u, u, given.cond, **scale).x0
        target = torch.where((i + 1 == last)[:, None], x_u, slow)
    gap = distance(given, given.student(x_t, t, given.cond, **scale).x0, target)
    if options["by_gap"]:
        gap = gap / (given.process.sigma(t) - given.process.sigma(u))
    return gap.mean()


RANGE, IMPROVED = {"low_guidance": 1.5, "high_guidance": 4.0}, {"by_gap": True, "decay": 0.0}
DATA = {"source": "data", "first_levels": 3, "distance": "huber"}
CASES = [
    Case("student", student_loss, process, kind, options, embedded=embedded, within=within, total=TOTAL)
    for process, kind, embedded, within, options in (
        (VE(), "edm", False, 0, {"levels": 5}),
        (Flow(), "velocity", False, 0, {"levels": 5, "distance": "l1", **RANGE}),
        (VE(), "edm", True, 0, {"levels": 5, "distance": "huber", **RANGE}),
        (Cosine(), "v", True, 0, {"levels": 5, "low_guidance": 2.5, "high_guidance": 2.5}),
        (ScaledLinearVP(), "eps", False, 0, {"levels": 5, "solver": "ddim", **RANGE}),
        (VE(), "edm", False, 17, {"levels": 9, "curriculum": "root", **IMPROVED, **DATA}),
        (Flow(), "velocity", False, 12, {"levels": 9, "curriculum": "doubling", **IMPROVED, **DATA}),
        (VE(), "edm", False, 0, {"levels": 5, **IMPROVED, "high_guidance": 3.0, "low_guidance": 3.0}),
    )
]
