"""flash_diffusion: drawn to the teacher's endpoints, low noise first and pure noise last, one or two calls do
what its grid does."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import distilled, reference, shipped_network
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.adversarial.flash_diffusion import FlashDiffusion
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = "mixture"
ABLATIONS = {
    "estimate": "The target is the teacher's clean estimate at the state itself, not where its solver ends.",
    "frozen": "The distribution of start times stays that of the first quarter: no pure noise.",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract(options={"grid": 8, "steps": 4, "low_guidance": 1.0, "high_guidance": 3.0})
SAMPLES = 8192


class Estimate(FlashDiffusion):
    """Plain regression onto the denoiser."""

    def endpoint(self, x_t: Tensor, j: int, teacher: Denoiser, cond: Condition) -> Tensor:
        with torch.no_grad():
            return teacher(x_t, torch.full((len(x_t),), self.times[j]), cond).x0


class Frozen(FlashDiffusion):
    """Low-noise starts alone."""

    def start_law(self, step: int) -> Tensor:
        return super().start_law(0)


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The distillation term alone; SWD is the sliced Wasserstein-1 distance to the data. The teacher is the
    closed form."""
    scale = guided(
        lambda w: FlashDiffusion(steps=2, low_guidance=w, high_guidance=w),
        seed,
        200,
        ablation,
    )
    if ablation == "guidance":
        return scale
    world, network = make_mixture(), shipped_network()
    method = {"": FlashDiffusion, "estimate": Estimate, "frozen": Frozen}[ablation](
        grid=8, solver="ddim", matching=0.0, adversarial=0.0
    )
    exact = world.exact(network.process)
    student = distilled(method, world, 1200, seed, network=network, data=InfiniteData(world), schedule="")

    data = reference(world, SAMPLES, seed)

    def distance(samples: Tensor) -> float:
        return sliced_wasserstein(samples, data, p=1)

    def teacher(steps: int) -> float:
        way = Sampling.steps(network.process, steps, solver="ddim")
        return distance(draw_samples(exact, way, world.shape, None, Draws(SAMPLES, seed, "sample")))

    one, two = (distance(student.sample(SAMPLES, steps=k, seed=seed)) for k in (1, 2))
    return [
        at_most("SWD of 2 calls / of the teacher's 8 steps", two / teacher(8), 1.5),
        at_most("SWD of 2 calls / of the teacher's 2 steps", two / teacher(2), 0.4),
        at_most("SWD of 1 call / of the teacher's 1 step", one / teacher(1), 0.1),
        *scale,
    ]
