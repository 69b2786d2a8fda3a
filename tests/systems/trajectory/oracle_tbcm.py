"""The loss of tbcm, from Tang et al., 2025 (arXiv 2511.20410) and Lu & Song, 2024 (arXiv 2410.11081,
algorithm 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.core.schedules import Cosine, Flow
from tests.systems.oracle import Case, Given

Walk = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]


def seen(given: Given, x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """A state of unit variance at an angle as one of the networks' process, at equal ``sigma / alpha``."""
    t = given.process.time(-tau.tan().log())
    return torch.hypot(given.process.alpha(t), given.process.sigma(t))[:, None] * x, t


def turn(tau: Tensor, clean: Tensor, eps: Tensor) -> Tensor:
    """``dx / dtau = cos(tau) eps - sin(tau) x_0``."""
    return tau.cos()[:, None] * eps - tau.sin()[:, None] * clean


def taught(given: Given, x: Tensor, tau: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The guided teacher's clean estimate and noise."""
    x_t, t = seen(given, x, tau)
    return given.guided(given.teacher, x_t, t, w), given.guided(given.teacher, x_t, t, w, "eps")


def shifted(a: float) -> float:
    return 2.5 * a / (1 + 1.5 * a)


def walk(given: Given, w: Tensor) -> Walk:
    """The guided teacher's states from pure noise, at random angles between those of the reference route; the
    first one is left out."""
    own, count = given.draws("student"), given.options["levels"]
    own.uniform()  # the scales
    x, states = own.normal(*given.shape), []
    ends = torch.linspace(1, shifted(0.001), count, dtype=torch.float64).tolist()
    route = [math.atan2(shifted(a), 1 - shifted(a)) for a in ends]
    angles = [own.one_uniform(low, high) for high, low in zip(route[:-1], route[1:], strict=True)]
    angles = [math.pi / 2] + [min(tau, math.pi / 2 - 0.001) for tau in angles]
    for angle, lower in zip(angles, [*angles[1:], 0.0], strict=True):
        tau = given.at(angle)
        clean, eps = taught(given, x, tau, w)
        states.append((x, tau, turn(tau, clean, eps), given.cond, w))
        x = math.cos(lower) * clean + math.sin(lower) * eps
    return tuple(torch.cat(parts) for parts in zip(*states[1:], strict=True))


def noised(given: Given, w: Tensor) -> Walk:
    """Data at ``tan(tau) = exp(0.2 + 1.6 z) / sigma_data``."""
    own = given.draws("student")
    own.uniform()  # the scales
    tau = torch.atan(torch.exp(0.2 + 1.6 * own.normal()) / given.options["sigma_data"])
    tau = tau.clamp(0.003, math.pi / 2 - 0.001)
    x = tau.cos()[:, None] * given.x + tau.sin()[:, None] * own.normal(*given.shape)
    return x, tau, turn(tau, *taught(given, x, tau, w)), given.cond, w


def student_loss(given: Given) -> Tensor:
    options = given.options
    low, high = options["low_guidance"], options["high_guidance"]
    w = low + (high - low) * given.draws("student").uniform()
    with torch.no_grad():
        x, tau, v, cond, w = (walk if options["states"] == "path" else noised)(given, w)
    scale = {"guidance": w} if low < high else {}

    def slope(x: Tensor, tau: Tensor) -> Tensor:
        pred = given.student(*seen(given, x, tau), cond, **scale)
        return turn(tau, pred.x0, pred.eps)

    sin, cos, h = tau.sin()[:, None], tau.cos()[:, None], 1e-6
    with torch.no_grad():  # the derivative along the teacher's direction, by a difference
        up, down = (slope(x + d * cos * sin * v, tau + d * (cos * sin)[:, 0]) for d in (h, -h))
        f, j = slope(x, tau), (up - down) / (2 * h)
        grown = min(1, (given.step + 1) / options["warmup"]) if options["warmup"] else 1
        r = options["tangent_share"] * grown
        g = -(cos**2) * (f - v) - r * (cos * sin * x + j)
        g = g / (g.norm(dim=1, keepdim=True) + options["norm_offset"])
    gap = (slope(x, tau) - f - g).square() / tau.tan()[:, None]
    if not options["adaptive"]:
        return gap.mean()
    head = given.net("student", 1)
    ell = head.out(head.angle(2 * tau / math.pi) + head.scale(torch.asinh(w) / 4))
    return (torch.exp(-ell) * gap + ell).mean()


RANGE, ONE = {"low_guidance": 1.5, "high_guidance": 4.0}, {"low_guidance": 2.5, "high_guidance": 2.5}
WHOLE = {"levels": 4, "warmup": 8, "tangent_share": 0.8, "norm_offset": 0.3, "sigma_data": 0.7}
CASES = [
    Case("student", student_loss, process, kind, {**WHOLE, **more}, embedded=embedded, within=within)
    for process, kind, embedded, within, more in (
        (Flow(), "velocity", False, 2, {"adaptive": True, **RANGE}),
        (Cosine(), "v", True, 12, {"adaptive": False, "exact": False, **ONE}),
        (Cosine(), "v", False, 0, {"adaptive": True, "states": "data", "warmup": 0, **ONE}),
        (Flow(), "velocity", True, 5, {"adaptive": False, "states": "data", **RANGE}),
    )
]
