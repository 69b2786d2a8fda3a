"""dmd: score difference and regression together do better than either; the fake score is what keeps the
modes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import SAMPLES, Figures, distilled, figures
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.parts.states.time_sampler import uniform
from stillhouse.systems.distribution.dmd import DMD
from stillhouse.train.batch import Batch
from stillhouse.worlds.mixture.layouts import make_mixture
from stillhouse.worlds.mixture.world import Mixture

WORLD = "mixture"
ABLATIONS = {
    "regression": "No regression on pairs: the score difference alone, from pure noise.",
    "matching": "No score difference: regression on the pairs alone.",
    "fake": "The sample itself takes the place of the fake score's estimate (score distillation sampling).",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract(options={"pairs": 32, "pair_steps": 4, "first_time": 0.7}, kind="x0")
PAIRS = 20
RUNS = 2


@dataclass
class ScoreDistillation(DMD):
    """Score distillation sampling (Poole et al., 2022, arXiv 2209.14988): the teacher's score alone."""

    def matching_gradient(self, x: Tensor, batch: Batch) -> Tensor:
        t = uniform(self.process, batch.draws, self.score_t_min, self.score_t_max)
        with torch.no_grad():
            gap = x - self.real(self.process.noise(x, t, batch.noise()), t, batch.cond).x0
            return gap / gap.abs().flatten(1).mean(1, keepdim=True)


def figures_of(method: DMD, world: Mixture, seed: int, lr: dict[str, float] | None = None) -> Figures:
    return figures(distilled(method, world, 300, seed, lr=lr).sample(SAMPLES, seed=seed), world, seed)


def check(seed: int, ablation: str = "") -> list[Claim]:
    """Uneven modes, pairs too few for their weights, a fake score that lags, from pure noise; the mean of two
    runs."""
    scale = guided(
        lambda w: DMD(first_time=0.7, regression_weight=0.0, guidance=w),
        seed,
        300,
        ablation,
        lr={"student": 5e-4, "fake": 1e-3},
    )
    if ablation == "guidance":
        return scale
    world, lag = make_mixture(weights=[4, 4, 4, 4, 1, 1, 1, 1]), {"student": 1e-3, "fake": 1e-4}

    def runs(method: DMD, count: int = RUNS) -> list[Figures]:
        return [figures_of(replace(method), world, RUNS * seed + i, lag) for i in range(count)]

    alone = figures_of(
        (ScoreDistillation if ablation == "fake" else DMD)(first_time=0.7, regression_weight=0.0),
        make_mixture(),
        seed,
    )
    claims = [
        at_least("modes held by the score difference alone, of 8", alone.modes, 8),
        at_most("its SWD", alone.swd, 0.5),
    ]
    if ablation == "fake":
        return claims
    matching, regression = runs(DMD(regression_weight=0.0), 1), runs(DMD(pairs=PAIRS, matching_weight=0.0))
    both = {"regression": matching, "matching": regression}.get(ablation) or runs(DMD(pairs=PAIRS))

    def ratio(what: str, others: list[Figures]) -> float:
        return fmean(getattr(f, what) for f in both[: len(others)]) / fmean(getattr(f, what) for f in others)

    return [
        *claims,
        at_most("SWD of both / of the score difference alone", ratio("swd", matching), 0.75),
        at_most("SWD of both / of the regression alone", ratio("swd", regression), 0.92),
        at_most("mass off the modes of both / of the regression alone", ratio("off_mode", regression), 0.75),
        *scale,
    ]
