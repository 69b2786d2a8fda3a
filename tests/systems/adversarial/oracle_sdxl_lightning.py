"""The losses of sdxl_lightning, from Lin, Wang & Yang, 2024 (arXiv 2402.13929), section 3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import between, ddim, over, published


@dataclass
class Jumps:
    """From ``x_t`` at ``t`` to ``s``: the student's ``x_s``, and where the model before it lands."""

    x_t: Tensor
    t: Tensor
    s: Tensor
    x_s: Tensor
    target: Tensor


def length(given: Given) -> int:
    """Of a stage: they are equal, the conversion's being the first."""
    return TOTAL // (len(given.options["ladder"]) - 1 + given.options["x0_student"])


def number(given: Given) -> int:
    """Which student of the ladder learns, from 0."""
    return given.step // length(given) - given.options["x0_student"]


def time(given: Given, share: float) -> float:
    """That share of the way from ``t_min``, up to the next step of a table; 0 at the clean end."""
    low = given.process.t_min
    t = low + (1 - low) * share if share > 1e-9 else 0.0
    return float(given.process.on_table(torch.tensor(t, dtype=torch.float64)))


def jumps(given: Given) -> Jumps:
    """Row by row: the student's steps are ``1 / N`` long and begin at ``1 / M, 2 / M … 1`` with ``M >= N``;
    the model before it takes as many equal ones as its ladder says."""
    k, ladder = number(given), given.options["ladder"]
    n, own = ladder[k + 1], given.draws("samples")
    places = max(n, given.options["times"])
    tops = [i / places for i in own.integers(1, places + 1).tolist()]
    steps = ladder[k] // n
    grids = [
        [max(top - 1 / n, 0.0) + min(1 / n, top) * (steps - j) / steps for j in range(steps + 1)]
        for top in tops
    ]
    path = torch.tensor([[time(given, share) for share in grid] for grid in grids], dtype=torch.float64)
    t, s, eps = path[:, 0], path[:, -1], own.normal(*given.shape)
    x_t = given.noise(given.x, t, eps)
    x_t = torch.where(over(t, eps) > 1 - 1e-9, over(given.process.sigma(t), eps) * eps, x_t)  # exactly noise
    x = x_t
    with torch.no_grad():
        for here, there in zip(path.T[:-1], path.T[1:], strict=True):
            if k == 0:
                clean = given.guided(given.teacher, x, here, given.options["guidance"])
            else:
                clean = given.net("frozen.previous")(x, here, given.cond).x0
            x = ddim(given, x, here, there, clean)
    landed = ddim(given, x_t, t, s, given.student(x_t, t, given.cond).x0)
    return Jumps(x_t, t, s, landed, x)


def regression_loss(given: Given) -> Tensor:
    made = jumps(given)
    return (made.x_s - made.target).square().mean()


def logits(given: Given, ends: list[Tensor], made: Jumps, own: Draws) -> list[Tensor]:
    """``P(x_s, x_t)``, later in a stage ``P(x_s)``, on the middle block of a backbone of the critic's own; of
    the last two students at a noisier level."""
    critic, s, ladder = given.net("critic"), made.s, given.options["ladder"]
    levels = torch.tensor(given.options["noise_levels"], dtype=torch.float64)
    if len(levels) and ladder[number(given) + 1] <= 2:
        chosen = published(given, levels)[own.integers(0, len(levels))]
        star, eps = torch.maximum(chosen, s), own.normal(*given.shape)
        ratio = given.process.alpha(star) / given.process.alpha(s)
        more = (given.process.sigma(star) ** 2 - ratio**2 * given.process.sigma(s) ** 2).clamp_min(0).sqrt()
        ends, s = [over(ratio, x) * x + over(more, x) * eps for x in ends], star
    s = s.clamp_min(max(given.process.t_min, 1e-3))
    features = [given.middle(critic.backbone, x, s) for x in ends]
    if given.within / length(given) >= given.options["relax"]:
        return [critic.alone(f) for f in features]
    began = given.middle(critic.backbone, made.x_t, made.t)
    return [critic.pair(torch.cat([f, began], 1)) for f in features]


def adversarial_loss(given: Given) -> Tensor:
    made = jumps(given)
    (fake,) = logits(given, [made.x_s], made, given.draws("student"))
    return softplus(-fake).mean()


def critic_loss(given: Given) -> Tensor:
    made = jumps(given)
    real, fake = logits(given, [made.target, made.x_s.detach()], made, given.draws("critic"))
    return softplus(-real).mean() + softplus(fake).mean()


def conversion_loss(given: Given) -> Tensor:
    own = given.draws("student")
    t = given.process.on_table(between(given, 0, 1, own.uniform()))
    x_t = given.noise(given.x, t, own.normal(*given.shape))
    return (given.student(x_t, t, given.cond).x0 - given.teacher(x_t, t, given.cond).x0).square().mean()


TOTAL = 24
OWN_KIND = {"guidance": 3.0, "x0_student": False}
COARSE = {**OWN_KIND, "ladder": (6, 2), "times": 3}
AT_ONCE = {**OWN_KIND, "plain": 0, "relax": 0.6, "ladder": (9, 3)}
BARE = {**OWN_KIND, "ladder": (8, 4, 2), "noise_levels": ()}
CASES = [
    Case(player, loss, process, kind, options, embedded, number, within, total=TOTAL)
    for player, loss, process, kind, options, embedded, number, within in (
        ("student", conversion_loss, ScaledLinearVP(), "eps", {"guidance": 3.0}, True, 0, 2),
        ("student", regression_loss, ScaledLinearVP(), "eps", {"guidance": 3.0}, False, 1, 1),
        ("student", regression_loss, VE(), "edm", COARSE, True, 0, 5),
        ("student", adversarial_loss, ScaledLinearVP(), "eps", {}, False, 2, 2),
        ("critic", critic_loss, ScaledLinearVP(), "eps", {}, False, 2, 5),
        ("student", adversarial_loss, ScaledLinearVP(), "eps", {}, True, 3, 4),
        ("critic", critic_loss, ScaledLinearVP(), "eps", {}, False, 3, 3),
        ("student", adversarial_loss, Cosine(), "v", AT_ONCE, True, 0, 15),
        ("critic", critic_loss, Cosine(), "v", AT_ONCE, False, 0, 14),
        ("critic", critic_loss, VE(), "edm", BARE, False, 1, 0),
        ("student", adversarial_loss, Flow(), "velocity", OWN_KIND, False, 2, 7),
    )
]
