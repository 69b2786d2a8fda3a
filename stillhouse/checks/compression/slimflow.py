"""slimflow: a one-call student of a small fraction of the teacher's size; two steps of its own reflowed self
keep it from learning few pairs by heart."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import trained
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.grids import uniform
from stillhouse.systems.compression.slimflow import SlimFlow
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData, NoData
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "guide": "The two-step target on fresh noise is dropped: the student is distilled on its few pairs "
    "alone.",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract(options={"pairs": 32, "pair_steps": 4})
FEW, SAMPLES = 24, 2048


class FewPairs(SlimFlow):
    """Distils on ``FEW`` of the stored pairs; the reflow before it has them all."""

    def mirrored(self, batch: Batch) -> dict[str, Tensor]:
        if self.stage == 0:
            return super().mirrored(batch)
        assert batch.bank
        chosen = batch.draws.integers(0, FEW)
        return {name: rows[chosen] for name, rows in batch.bank(Draws(FEW, "few")).items()}


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The errors are of single calls against the teacher's 128 steps from the same fresh noise."""
    scale = guided(lambda w: SlimFlow(guidance=w), seed, 400, ablation)
    if ablation == "guidance":
        return scale
    world = get_world(WORLD, radius=1.5, std=0.2)
    big = world.network(Flow(), seed, width=128, depth=3, classes=0)
    teacher = trained(Denoising(), load(big, shape=world.shape), InfiniteData(world), 800, seed)

    def distilled(guide_weight: float) -> Model:
        method = FewPairs(pairs=4096, pair_steps=16, guide_weight=guide_weight)
        student = world.network(Flow(), seed, width=32, depth=2, classes=0)
        data = NoData(world.shape)
        return trained(method, teacher, data, 2000, seed, student=student, lr=2e-3, ema=0.995)

    eps = Draws(SAMPLES, seed, "fresh noise").normal(*world.shape)
    with torch.no_grad():
        many = rollout(teacher.denoiser, eps, uniform(128), DDIM())
        blurred = rollout(teacher.denoiser, eps, [1.0, 0.0], DDIM())

    def called(student: Model) -> Tensor:
        with torch.no_grad():
            return rollout(student.denoiser, eps, [1.0, 0.0], DDIM())

    pairs_alone = distilled(0.0)
    student = pairs_alone if ablation == "guide" else distilled(1.0)
    return [
        at_most(
            "paired error on fresh noise / without the two-step target",
            error(called(student), many) / error(called(pairs_alone), many),
            0.75,
        ),
        at_most("weights / the teacher's", student.parameters / teacher.parameters, 1 / 8),
        at_most(
            "SWD of 1 call / of the teacher's 1 step",
            sliced_wasserstein(called(student), many) / sliced_wasserstein(blurred, many),
            0.35,
        ),
        *scale,
    ]


def error(a: Tensor, b: Tensor) -> float:
    """Root mean squared distance of paired points."""
    return float((a - b).square().sum(1).mean().sqrt())
