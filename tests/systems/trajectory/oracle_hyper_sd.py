"""The losses of hyper_sd, from Ren et al., 2024 (arXiv 2404.13686, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from stillhouse.core.conditions import Condition
from stillhouse.core.schedules import VE, Cosine, Flow, ScaledLinearVP
from tests.systems.oracle import Case, Given
from tests.systems.written import between, ddim, heun, placed, pulled

SQUARED = {4: 0.8, 2: 0.5, 1: 0.3}  # the squared error's share at that many segments


def worth(x: Tensor, cond: Condition) -> Tensor:
    """A reward, (B,)."""
    return (1 + cond) * x[:, 0] - x[:, 1]


def jump(given: Given, net: nn.Module, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """``J(x, t -> s) = Phi(x, t -> s; D)``."""
    return ddim(given, x, t, s, net(x, t, given.cond).x0)


def teacher(given: Given, x: Tensor, t: Tensor) -> Tensor:
    """The guided clean estimate."""
    return given.guided(given.teacher, x, t, given.options["guidance"])


def segment_jump(given: Given, segments: int) -> tuple[Tensor, Tensor, Tensor]:
    """``s``, where the student's jump from the upper of two neighbours ends, and where the slow copy's from
    the lower one does: the neighbours and ``s`` lie in one of the segments."""
    own, count = given.draws("samples"), given.options["levels"]
    if given.options["unified"] and segments == given.options["last_segments"]:
        segments = given.options["segments"] // 2 ** given.draws("segments").one_integer(0, ladder(given))
    m = own.integers(0, count)
    b = torch.floor(m * segments / count) / segments
    t, u, b = (placed(given, between(given, 0, 1, v)) for v in ((m + 1) / count, m / count, b))
    s = placed(given, b + (u - b) * own.uniform())
    x_t = given.noise(given.x, t, own.normal(*given.shape))
    with torch.no_grad():
        x_u = ddim(given, x_t, t, u, teacher(given, x_t, t))
        target = torch.where((u == b)[:, None], x_u, jump(given, given.net("ema.target"), x_u, u, s))
    return s, jump(given, given.student, x_t, t, s), target


def ladder(given: Given) -> int:
    """How many stages of segments there are."""
    return (given.options["segments"] // given.options["last_segments"]).bit_length()


def logits(given: Given, x: Tensor, s: Tensor) -> Tensor:
    """Of states, on the teacher's features."""
    return given.net("critic")(given.middle(given.teacher, x, s.clamp_min(max(given.process.t_min, 1e-3))))


def segment_loss(segments: int):
    """``a |x_est - x_tgt|^2 + (1 - a) L_adv``, the option ``critic`` scaling ``1 - a``."""

    def student_loss(given: Given) -> Tensor:
        s, x_s, target = segment_jump(given, segments)
        squared = (x_s - target).square().mean()
        if not given.options["critic"]:
            return squared
        rest = given.options["critic"] * (1 - SQUARED[segments])
        return (1 - rest) * squared - rest * logits(given, x_s, s).mean()

    return student_loss


def critic_loss(segments: int):
    """The hinge of noised data against where the student's jumps end."""

    def loss(given: Given) -> Tensor:
        s, x_s, _ = segment_jump(given, segments)
        real = given.noise(given.x, s, given.draws("critic").normal(*given.shape))
        return relu(1 - logits(given, real, s)).mean() + relu(1 + logits(given, x_s.detach(), s)).mean()

    return loss


def shortfall(given: Given, x: Tensor) -> Tensor:
    """How far samples are from a reward that is good enough."""
    return relu(given.options["margin"] - worth(x, given.cond)).mean()


def reward_loss(given: Given) -> Tensor:
    own = given.draws("student")
    t = placed(given, between(given, 0, 1, own.uniform()))
    return shortfall(
        given, given.student(given.noise(given.x, t, own.normal(*given.shape)), t, given.cond).x0
    )


def once(given: Given, eps: Tensor, cond: Condition) -> Tensor:
    """The one-step student's samples."""
    t = given.at(given.options["first_time"])
    return given.student(given.process.sigma(t)[0] * eps, t, cond).x0


def score_loss(given: Given) -> Tensor:
    x = once(given, given.draws("samples").normal(*given.shape), given.cond)
    own, options = given.draws("student"), given.options
    t, eps = placed(given, between(given, 0.02, 0.98, own.uniform())), own.normal(*given.shape)
    with torch.no_grad():
        x_t = given.noise(x, t, eps)
        real = teacher(given, x_t, t)
        g = (given.net("fake")(x_t, t, given.cond).x0 - real) / (x - real).abs().mean(1, keepdim=True)
    loss = pulled(x, g)
    if options["pairs"] and options["pair_weight"]:
        gap = once(given, given.bank["eps"], given.bank["cond"]) - given.bank["x"]
        loss = loss + options["pair_weight"] * gap.square().mean()
    if options["reward"]:
        loss = loss + options["reward_weight"] * shortfall(given, x)
    return loss


def fake_loss(given: Given) -> Tensor:
    x = once(given, given.draws("samples").normal(*given.shape), given.cond).detach()
    own = given.draws("fake")
    t = placed(given, between(given, 0, 1, own.uniform()))
    return given.denoising(given.net("fake"), x, t, own.normal(*given.shape))


def pairs(given: Given) -> dict[str, Tensor]:
    """Noise, and where Heun's steps of the guided teacher carry it."""
    eps, count = given.draws("bank").normal(*given.shape), given.options["levels"]
    x = given.process.sigma(given.at(1.0)[0]) * eps
    for k in range(count):
        t, s = given.at(1 - k / count), given.at(1 - (k + 1) / count)
        x = heun(given, lambda x, t: teacher(given, x, t), x, t, s)
    return {"eps": eps, "x": x, "cond": given.cond}


WHOLE = {
    "segments": 4,
    "levels": 8,
    "guidance": 2.5,
    "critic": 0.7,
    "unified": True,
    "reward": f"{__name__}:worth",
    "reward_share": 0.25,
    "margin": 1.5,
    "score_share": 0.25,
    "first_time": 0.8,
    "pairs": 12,
    "pair_weight": 0.6,
    "reward_weight": 0.3,
}
PLAIN = {"critic": 0.0, "unified": False}
CASES = [
    Case(player, loss, process, kind, {**WHOLE, **more}, embedded=embedded, stage=stage)
    for stage, player, loss, process, kind, embedded, more in (
        (0, "student", segment_loss(4), Flow(), "velocity", False, {}),
        (1, "student", segment_loss(2), ScaledLinearVP(), "v", True, {}),
        (2, "student", segment_loss(1), VE(), "edm", False, {}),
        (2, "student", segment_loss(1), Cosine(), "v", True, PLAIN),
        (1, "critic", critic_loss(2), Flow(), "velocity", False, {}),
        (2, "critic", critic_loss(1), VE(), "edm", True, {"unified": False}),
        (3, "student", reward_loss, Cosine(), "v", False, {}),
        (4, "student", score_loss, VE(), "edm", False, {}),
        (4, "student", score_loss, Flow(), "velocity", True, {"pair_weight": 0.0}),
        (4, "fake", fake_loss, VE(), "edm", False, {}),
        (4, "fake", fake_loss, ScaledLinearVP(), "eps", True, {}),
        (0, "bank", pairs, VE(), "edm", False, {}),
        (0, "bank", pairs, Flow(), "velocity", True, {}),
    )
]
