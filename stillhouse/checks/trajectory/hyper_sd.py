"""hyper_sd: segments first, then fewer; a student trained on the whole path from the start is worse at the
same number of calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import trained
from stillhouse.core.conditions import Condition, as_tensor
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.training.denoising import Denoising
from stillhouse.systems.trajectory.hyper_sd import HyperSD
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = "mixture"
ABLATIONS = {
    "segments": "One segment from the start, for as many iterations.",
    "margin": "The reward is never high enough: samples are pushed on for ever.",
}
CONTRACT = Contract(
    options={
        "segments": 2,
        "levels": 4,
        "critic": 0.5,
        "unified": True,
        "reward": "stillhouse.checks.trajectory.hyper_sd:across",
        "reward_share": 0.25,
        "score_share": 0.25,
        "margin": 9.0,
        "pairs": 32,
    }
)
SAMPLES = 8192
EACH = 300  # iterations to a stage
MARGIN = 0.5
GUIDANCE = 2.0


def across(x0: Tensor, cond: Condition) -> Tensor:
    """A linear classifier's evidence: the signed distance of ``x0`` (B, 2) from the line between the ring's
    two halves."""
    angle = math.radians(67.5)
    side = x0 @ x0.new_tensor([math.cos(angle), math.sin(angle)])
    return torch.where(as_tensor(cond) == 0, side, -side)


class Bench:
    """The exact teacher of two classes, guided, and a network trained to equal it: the start of every
    student."""

    def __init__(self, seed: int):
        self.seed, self.world = seed, make_mixture(radius=2.0, std=0.25, classes=2)
        self.teacher = load(self.world.exact(Flow()), shape=self.world.shape, classes=2)
        self.cond = self.world.balanced_labels(SAMPLES)
        fresh = self.world.network(Flow(), seed, width=64, depth=3)
        self.network = self.run(Denoising(), 600, 1e-3, fresh)
        self.ends = self.draw(self.teacher.denoiser, 100, GUIDANCE)

    def run(self, method: Denoising | HyperSD, steps: int, lr: float, student: Denoiser) -> Denoiser:
        data, start = InfiniteData(self.world, labelled=True), student.copy()
        return trained(method, self.teacher, data, steps, self.seed, student=start, lr=lr).denoiser

    def segmented(self, student: Denoiser, first: int, last: int, stages: int) -> Denoiser:
        return self.run(
            HyperSD(segments=first, last_segments=last, guidance=GUIDANCE), stages * EACH, 2e-3, student
        )

    def lifted(self, student: Denoiser, margin: float) -> Denoiser:
        """The student after a reward stage of 180 iterations."""
        reward = f"{__name__}:{across.__name__}"
        method = HyperSD(segments=1, guidance=GUIDANCE, reward=reward, reward_share=0.9, margin=margin)
        return self.run(method, 200, 3e-5, student)

    def draw(self, model: Denoiser, steps: int, guidance: float = 1.0) -> Tensor:
        way = Sampling.steps(Flow(), steps, solver="ddim", guidance=guidance)
        return draw_samples(model, way, self.world.shape, self.cond, Draws(SAMPLES, self.seed, "sample"))

    def error(self, model: Denoiser, steps: int) -> float:
        """Root mean square distance of ``steps``-call samples to where the teacher's 100 steps end from the
        same noise."""
        return float((self.draw(model, steps) - self.ends).square().sum(1).mean().sqrt())

    def reward(self, model: Denoiser) -> float:
        return float(across(self.draw(model, 1), self.cond).mean())

    def distance(self, model: Denoiser) -> float:
        """Sliced Wasserstein-1 distance of 1-call samples to the teacher's."""
        return sliced_wasserstein(self.draw(model, 1), self.ends, p=1)


def segments(bench: Bench, four: Denoiser, two: Denoiser, ablated: bool) -> list[Claim]:
    """The chain's students against ones of a single segment, trained as long: by ``ablated``, these in the
    place of those."""
    long = bench.segmented(bench.network, 1, 1, 2)
    longer = bench.segmented(long, 1, 1, 1)
    plain = bench.error(long, 4), bench.error(longer, 2)
    chain = plain if ablated else (bench.error(four, 4), bench.error(two, 2))
    return [
        at_most(
            "distance to the teacher's ends at 4 calls: 4 segments / a single one", chain[0] / plain[0], 0.6
        ),
        at_most(
            "distance to the teacher's ends at 2 calls: 2 segments / a single one", chain[1] / plain[1], 0.85
        ),
    ]


def feedback(bench: Bench, one: Denoiser, margin: float) -> list[Claim]:
    lifted = bench.lifted(one, margin)
    return [
        at_least(
            "mean reward of 1 call: what the reward stage adds",
            bench.reward(lifted) - bench.reward(one),
            0.05,
        ),
        at_most(
            "SWD of 1 call to the teacher: after the reward stage / before",
            bench.distance(lifted) / bench.distance(one),
            1.3,
        ),
    ]


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The reward stage needs a low rate: Adam's steps are as long where two samples in a hundred fall short
    as where all do."""
    bench = Bench(seed)
    if ablation == "segments":
        return segments(bench, bench.network, bench.network, True)
    four = bench.segmented(bench.network, 8, 4, 2)
    two = bench.segmented(four, 2, 2, 1)
    claims = segments(bench, four, two, False) if not ablation else []
    one = bench.segmented(two, 1, 1, 1)
    return claims + feedback(bench, one, 1e3 if ablation == "margin" else MARGIN)
