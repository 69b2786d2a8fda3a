"""The losses of icd, from Starodubcev et al., 2024 (arXiv 2406.14539), section 4."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import VE, Cosine, ScaledLinearVP
from tests.systems.oracle import ROWS, Case, Given
from tests.systems.written import ddim, over


def times(given: Given, levels: list[int]) -> Tensor:
    """Of levels of ``0 … N``, in float32 as the method keeps them: evenly from ``t_min`` to 1, on a table its
    next steps; level 0 is the clean end."""
    count = given.options["levels"] + 1
    grid = torch.linspace(given.process.t_min, 1.0, count, dtype=torch.float32)
    return torch.cat([torch.zeros(1), given.process.on_table(grid)[1:]]).float()[levels]


def boundaries(given: Given) -> list[int]:
    m, levels = given.options["segments"], given.options["levels"]
    return [ceil(j * levels / m) for j in range(m + 1)]


def huber(a: Tensor, b: Tensor) -> Tensor:
    return (((a - b).square() + 1e-6).sqrt() - 1e-3).mean()


def scale_input(given: Given, net: Denoiser, w: Tensor | None) -> dict[str, Tensor]:
    """The scale of a network that takes one, 1 where there is no guidance; none where no scale is learnt."""
    if given.options["high_guidance"] == 1 or not net.net.config.get("guidance_input"):
        return {}
    return {"guidance": torch.ones(ROWS).double() if w is None else w}


def jump(given: Given, net: Denoiser, x: Tensor, t: Tensor, s: Tensor, w: Tensor | None = None) -> Tensor:
    """``J(x, t -> s) = alpha_s x0 + sigma_s eps``."""
    return ddim(given, x, t, s, net(x, t, given.cond, **scale_input(given, net, w)).x0)


def teacher_step(given: Given, x: Tensor, t: Tensor, s: Tensor, w: Tensor | None) -> Tensor:
    """One DDIM step of the teacher, guided by each row's own scale."""
    extra = scale_input(given, given.teacher, w)
    clean = given.teacher(x, t, given.cond, **extra).x0
    if w is not None and not extra:
        empty = given.teacher(x, t, None).x0
        clean = empty + over(w, x) * (clean - empty)
    return ddim(given, x, t, s, clean)


def consistency(
    given: Given,
    net: Denoiser,
    eps: Tensor,
    here: list[int],
    there: list[int],
    ends: list[int],
    w: Tensor | None,
) -> Tensor:
    """A jump to the boundary lands where it does from one teacher step on; at the boundary that step is the
    target itself."""
    t, s, b = (times(given, levels) for levels in (here, there, ends))
    x_t = given.noise(given.x, t, eps)
    with torch.no_grad():
        target = teacher_step(given, x_t, t, s, w)
        for row in range(ROWS):
            if there[row] != ends[row]:
                target[row] = jump(given, net, target, s.clamp_min(1e-9), b, w)[row]
    return huber(jump(given, net, x_t, t, b, w), target)


def preserve(
    given: Given, net: Denoiser, other: Denoiser, eps: Tensor, here: list[int], there: list[int]
) -> Tensor:
    """Across a segment by the other map and back, without guidance."""
    t, s = times(given, here), times(given, there)
    x = given.noise(given.x, t, eps)
    with torch.no_grad():
        away = jump(given, other, x, t, s)
    return huber(jump(given, net, away, s, t), x)


def student_loss(given: Given) -> Tensor:
    """Reverse: down to the largest boundary that is not above ``s``."""
    own, options, bounds = given.draws("student"), given.options, boundaries(given)
    here = own.integers(1, options["levels"] + 1).tolist()
    w = None
    if options["high_guidance"] > 1:
        grid = [
            1 + (options["high_guidance"] - 1) * i / (options["scales"] - 1) for i in range(options["scales"])
        ]
        w = torch.tensor(grid, dtype=torch.float64)[own.integers(0, options["scales"])]
    there = [k - 1 for k in here]
    ends = [max(b for b in bounds if b <= k) for k in there]
    loss = consistency(given, given.student, own.normal(*given.shape), here, there, ends, w)
    segment, eps = own.integers(0, options["segments"]).tolist(), own.normal(*given.shape)
    low, high = [max(bounds[j], 1) for j in segment], [bounds[j + 1] for j in segment]
    return loss + options["preserve"] * preserve(given, given.student, given.net("forward"), eps, low, high)


def forward_loss(given: Given) -> Tensor:
    """Up to the smallest boundary that is not below ``s``, without guidance."""
    own, options, bounds = given.draws("forward"), given.options, boundaries(given)
    here = own.integers(1, options["levels"]).tolist()
    there = [k + 1 for k in here]
    ends = [min(b for b in bounds if b >= k) for k in there]
    loss = consistency(given, given.net("forward"), own.normal(*given.shape), here, there, ends, None)
    segment, eps = own.integers(0, options["segments"]).tolist(), own.normal(*given.shape)
    low, high = [max(bounds[j], 1) for j in segment], [bounds[j + 1] for j in segment]
    return loss + options["preserve"] * preserve(given, given.net("forward"), given.student, eps, high, low)


# levels of which the rows draw the lowest, the highest and both sides of a boundary
FINE = {"segments": 3, "levels": 11, "high_guidance": 4.0, "scales": 4, "preserve": 0.7}
PLAIN = {**FINE, "segments": 2, "levels": 8, "high_guidance": 1.0}
CASES = [
    Case(player, loss, process, kind, options, embedded)
    for player, loss in (("student", student_loss), ("forward", forward_loss))
    for process, kind, options, embedded in (
        (ScaledLinearVP(), "eps", FINE, False),
        (Cosine(), "v", FINE, True),
        (VE(), "edm", PLAIN, False),
        (ScaledLinearVP(), "v", PLAIN, True),
    )
]
