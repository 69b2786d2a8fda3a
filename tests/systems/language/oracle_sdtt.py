"""The loss of sdtt, from Deschenaux & Gulcehre, 2024 (arXiv 2410.21035), algorithm 1, and the masked process
of Sahoo et al., 2024 (arXiv 2406.07524)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.discrete import Masked
from tests.systems.oracle import ROWS, Case, Given

ONE_PROCESS = "the method is defined by masks; the two schedules of the masked process are both here"
MASK = 6


def log_probs(net: object, x_t: Tensor, t: Tensor, given: Given) -> Tensor:
    """SUBS: the mask is never predicted, and what is visible is certain."""
    logits = net(x_t, t, given.cond).raw[..., :MASK].log_softmax(-1)  # type: ignore[operator]
    certain = torch.full_like(logits, -torch.inf).scatter(-1, x_t.clamp(max=MASK - 1)[..., None], 0.0)
    return torch.where((x_t == MASK)[..., None], logits, certain)


def level(given: Given, t: Tensor) -> Tensor:
    """``alpha`` of each row, (B, 1)."""
    if given.process.schedule == "cosine":
        return 1 - (torch.pi * (1 - t) / 2).cos()[:, None]
    return 1 - (1 - given.process.eps) * t[:, None]


def ancestral(given: Given, probs: Tensor, z: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """Of a mask: token ``v`` with probability ``D_v (alpha_s - alpha_t) / (1 - alpha_t)``, else a mask; by
    the cumulated sums. What is visible stays."""
    high, low = level(given, s), level(given, t)
    sums = (probs * ((high - low) / (1 - low))[..., None]).cumsum(-1)
    return torch.where(z == MASK, (u[..., None] >= sums).sum(-1), z)


def target(given: Given, x_t: Tensor, t: Tensor) -> Tensor:
    """What the teacher predicts of each mask last, before it is unmasked in ``substeps`` steps of ``dt``."""
    options, own = given.options, given.draws("student")
    own.one_uniform(), own.uniform(0, 1, *given.shape)  # of t and x_t
    first = given.step < 8
    teacher = given.teacher if first else given.net("frozen.previous")
    dt = options["substeps"] ** (given.step // 8) / options["teacher_steps"]
    z, stored = x_t, torch.full((*x_t.shape, MASK), torch.nan)
    for i in range(options["substeps"]):
        now, then = (t - i * dt).clamp_min(1e-3), (t - (i + 1) * dt).clamp_min(1e-3)
        answer = log_probs(teacher, z, now, given)
        after = ancestral(given, answer.exp(), z, now, then, own.uniform(0, 1, *given.shape))
        stored = torch.where(((z == MASK) & (after != MASK))[..., None], answer, stored)
        z = after
    return torch.where((z == MASK)[..., None], answer, stored)


def loss(given: Given) -> Tensor:
    """The divergence at the masks, over the number of masks that one would expect at uniform times."""
    own, rows = given.draws("student"), torch.arange(ROWS)
    t = 1e-3 + (1 - 1e-3) * ((own.one_uniform() + rows / ROWS) % 1)
    x_t = torch.where(own.uniform(0, 1, *given.shape) >= level(given, t), MASK, given.x)
    hidden = x_t == MASK
    student = log_probs(given.student, x_t, t, given)[hidden]
    with torch.no_grad():
        wanted = target(given, x_t, t)[hidden].clamp_min(-30)
    each = {
        "reverse_kl": student.exp() * (student - wanted),
        "forward_kl": wanted.exp() * (wanted - student),
        "absolute": (student - wanted).abs(),
        "squared": (student - wanted).square(),
    }[given.options["divergence"]]
    share = 2 / torch.pi if given.process.schedule == "cosine" else (1 - given.process.eps) / 2
    return each.sum() / (hidden.numel() * share)


CASES = [
    Case("student", loss, process, options=options, stage=stage, within=3)
    for process, stage, options in (
        (Masked(MASK), 0, {"teacher_steps": 8}),
        (Masked(MASK, schedule="cosine"), 1, {"teacher_steps": 12, "substeps": 3, "rounds": 3}),
        (Masked(MASK), 2, {"teacher_steps": 16, "divergence": "forward_kl", "teacher_ema": 0.0}),
        (Masked(MASK), 1, {"divergence": "absolute"}),
        (Masked(MASK), 0, {"divergence": "squared", "substeps": 4, "teacher_steps": 16}),
    )
]
