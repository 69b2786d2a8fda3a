"""The losses of tad_sr, from He et al., 2024 (arXiv 2408.07476), in residuals ``r = x - y``."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.bridge import Brownian, ResShift
from tests.systems.oracle import Case, Given
from tests.systems.written import ddim, over

NOT_EMBEDDED = NO_GUIDANCE = "restoration is not guided"


def start(given: Given) -> Tensor:
    """``x_T = y + kappa sqrt(eta_T) eps``."""
    return given.process.sigma(given.at(1.0)[0]) * given.draws("start").normal(*given.shape)


def samples(given: Given) -> Tensor:
    return given.student(start(given), given.at(1.0), given.cond).x0


@torch.no_grad()
def teacher_target(given: Given) -> Tensor:
    """``x_{i-1} = k D + m x_i + j y`` over all levels, where ``m = sigma_{i-1} / sigma_i``: less ``y`` it is
    ``alpha_{i-1} D + m (x_i - alpha_i D)``."""
    x, steps = start(given), given.options["steps"]
    for i in range(steps, 0, -1):
        t, s = given.at(i / steps), given.at((i - 1) / steps)
        clean = given.teacher(x, t, given.cond).x0
        pinned = float(given.process.sigma(t)[0]) == 0  # no noise in the state: none to carry on
        x = over(given.process.alpha(s), x) * clean if pinned else ddim(given, x, t, s, clean)
    return x


def level(given: Given, purpose: str, count: int) -> tuple[Tensor, Tensor]:
    """One of the ``count`` smallest levels, and noise for it."""
    own = given.draws(purpose)
    return (1 + own.integers(0, count)) / given.options["steps"], own.normal(*given.shape)


def implied_noise(given: Given, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """``(u - (1 - eta) D(u) - eta y) / (kappa sqrt(eta))`` at ``x`` noised to ``t``."""
    u = given.noise(x, t, eps)
    clean = given.teacher(u, t, given.cond).x0
    return (u - over(given.process.alpha(t), x) * clean) / over(given.process.sigma(t), x)


def logits(given: Given, x: Tensor) -> Tensor:
    """Of the heads on the blocks of the teacher up to its middle, at any level but the last."""
    t, eps = level(given, "judge", given.options["steps"] - 1)
    kept: list[Tensor] = []
    net = given.teacher.net
    hooks = [block.register_forward_hook(lambda _m, _i, out: kept.append(out)) for block in net.blocks]
    given.teacher(given.noise(x, t, eps), t, given.cond)
    for hook in hooks:
        hook.remove()
    heads = given.net("critic").heads
    assert net.middle == f"blocks.{len(heads) - 1}"
    return torch.cat([head(h, t).flatten(1) for head, h in zip(heads, kept, strict=False)], 1)


def student_loss(given: Given) -> Tensor:
    x, target, options = samples(given), teacher_target(given), given.options
    loss = (x - target).square().mean()
    if options["hsd_weight"]:
        t, eps = level(given, "detail", options["levels"])
        with torch.no_grad():
            g = implied_noise(given, x, t, eps) - implied_noise(given, target, t, eps)
        loss = loss + options["hsd_weight"] * (g * x).mean()
    if options["gan_weight"]:
        loss = loss - options["gan_weight"] * logits(given, x).mean()
    return loss


def critic_loss(given: Given) -> Tensor:
    real, fake = logits(given, given.x), logits(given, samples(given).detach())
    return (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()


WHOLE = {"steps": 4, "levels": 3, "hsd_weight": 0.6, "gan_weight": 0.3}
CASES = [
    Case(player, loss, process, "scaled", {**WHOLE, **options}, network={"depth": 3})
    for player, loss, process, options in (
        ("student", student_loss, ResShift(steps=4), {}),
        ("student", student_loss, Brownian(), {"time_aware": False, "steps": 5, "gan_weight": 0.0}),
        ("student", student_loss, ResShift(steps=4), {"levels": 4, "hsd_weight": 0.0}),
        ("critic", critic_loss, ResShift(steps=4), {}),
        ("critic", critic_loss, Brownian(), {"time_aware": False, "steps": 5}),
    )
]
