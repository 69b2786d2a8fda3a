"""swiftbrush: a score of the student's own keeps the modes, equal guidance on both keeps them in place, an
adapter can be that score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import SAMPLES, distilled, figures, shipped_network, trained
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.guidance import Guided
from stillhouse.opening import load
from stillhouse.parts.gaps.score import noise_share
from stillhouse.parts.gaps.vsd import fake_denoising, fake_times
from stillhouse.samplers.draw import draw_samples
from stillhouse.systems.distribution.swiftbrush import SwiftBrush
from stillhouse.train.batch import Batch
from stillhouse.train.data import NoData
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = "mixture"
ABLATIONS = {
    "fake": "The noise that was added takes the place of the fake's estimate (score distillation sampling).",
    "guidance": "Only the teacher is guided, the fake is not.",
    "adapter": "The adapter stays without effect: the fake score is the teacher.",
}
CONTRACT = Contract(options={"first_time": 0.7, "rank": 2, "guidance": 2.0})
START = 0.7
RATES = {"student": 1e-3, "fake": 1e-3}
# The scale multiplies the fake's lag as well: at equal rates the two players circle one another, and where
# the run leaves them is chance. The paper's rates, too, are far apart: 1e-6 and 1e-3.
GUIDED_RATES = {"student": 1e-4, "fake": 2e-3}


@dataclass
class ScoreDistillation(SwiftBrush):
    """Score distillation sampling (Poole et al., 2022, arXiv 2209.14988): the teacher's score alone."""

    def vsd_gradient(self, x: Tensor, t: Tensor, eps: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            pred = self.real(self.process.noise(x, t, eps), t, batch.cond)
            return noise_share(pred.at) * (pred.eps - eps)


@dataclass
class OneSided(SwiftBrush):
    """Guidance on the teacher's score and none on the fake's."""

    def build(self) -> None:
        super().build()
        self.own = Guided(self.fake, 1.0)


@dataclass
class WarmUp(SwiftBrush):
    """The fake score is trained, the student stays as it is."""

    def turns(self, step: int) -> list[str]:
        return ["fake"]


def modes(seed: int, ablated: bool) -> list[Claim]:
    """The card's setting: no labels, a closed-form teacher."""
    world, method = make_mixture(), (ScoreDistillation if ablated else SwiftBrush)(first_time=START)
    draws = Draws(SAMPLES, seed, "sample")
    before = figures(
        draw_samples(shipped_network(), method.samplings()[1], world.shape, None, draws), world, seed
    )
    after = figures(distilled(method, world, 600, seed, lr=RATES).sample(SAMPLES, seed=seed), world, seed)
    return [
        at_least("modes held, of 8", after.modes, 8),
        at_most("SWD of 1 call / before training", after.swd / before.swd, 0.5),
    ]


def place(seed: int, ablated: bool) -> Claim:
    """Labels and a strong guidance: a student that begins at the modes stays there under equal guidance; a
    fake without it leaves a push that never ends."""
    world, method = make_mixture(), (OneSided if ablated else SwiftBrush)(first_time=START)
    model = distilled(method, world, 500, seed, lr=GUIDED_RATES, data=NoData(world.shape, world.classes))
    labels = torch.arange(SAMPLES) % world.classes
    x = draw_samples(
        model.denoiser, method.samplings()[1], world.shape, labels, Draws(SAMPLES, seed, "sample")
    )
    return at_most("w = 4.5, eight labels: share of samples off their mode", world.off_mode(x, labels), 0.1)


def adapter(seed: int, ablated: bool) -> Claim:
    """The shipped trained teacher, its copy as a student that makes one call, and an adapter that is trained
    on that student's samples."""
    teacher, method = load("mixture"), WarmUp(first_time=START, rank=4, lora_alpha=8.0)
    trained(method, teacher, NoData(teacher.shape, teacher.classes), 200, seed, ema=0)
    draws = Draws(SAMPLES, seed, "loss")
    labels = draws.integers(0, teacher.classes)
    x = draw_samples(method.student, method.samplings()[1], teacher.shape, labels, draws)
    t, eps = fake_times(method.process, draws), draws.normal_like(x)

    def loss(of: Denoiser) -> float:
        with torch.no_grad():
            return float(fake_denoising(of, x, t, eps, labels))

    frozen = loss(method.teacher)
    return at_most(
        "the student's samples: denoising loss with the adapter / of the teacher",
        (frozen if ablated else loss(method.fake)) / frozen,
        0.8,
    )


def check(seed: int, ablation: str = "") -> list[Claim]:
    claims = modes(seed, ablation == "fake") if ablation in ("", "fake") else []
    claims += [place(seed, ablation == "guidance")] if ablation in ("", "guidance") else []
    return claims + ([adapter(seed, ablation == "adapter")] if ablation in ("", "adapter") else [])
