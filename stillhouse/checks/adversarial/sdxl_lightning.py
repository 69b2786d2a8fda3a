"""sdxl_lightning: a critic conditioned on the start of a jump puts the student on the teacher's flow; without
it the student may end anywhere."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import distilled
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.adversarial.sdxl_lightning import SDXLLightning
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = "mixture"
ABLATIONS = {
    "start": "The critic is not conditioned on the state at which the jump began.",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract(options={"ladder": (8, 4, 2, 1), "x0_student": True})
SAMPLES = 8192
WAY: dict[str, Any] = {"ladder": (16, 2), "plain": 0, "relax": 1.0, "times": 1, "noise_levels": ()}
STEPS = 900
RATES = {"student": 1e-3, "critic": 2e-3}


class WithoutStart(SDXLLightning):
    """The critic scores the ends of jumps alone, from the first iteration on."""

    def with_start(self, batch: Batch) -> bool:
        return False


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The critic is all that the student learns from: it starts as a fresh network, whose samples are
    unrelated to their noise, and not as the teacher's copy, from which even an unconditional critic takes
    long to lead it away."""
    scale = guided(lambda w: SDXLLightning(guidance=w, **WAY), seed, 400, ablation, lr=RATES)
    if ablation == "guidance":
        return scale
    world = make_mixture(radius=2.0, std=0.25)
    fresh = world.network(Flow(), seed, width=64, depth=3, classes=0)
    teacher = load(world.exact(Flow()), shape=world.shape)

    def run(kind: type[SDXLLightning]) -> Model:
        method = kind(**WAY)
        data, student = InfiniteData(world), fresh.copy()
        return distilled(method, world, STEPS, seed, network=student, data=data, lr=RATES)

    def ends(model: Model, steps: int) -> Tensor:
        way = Sampling.steps(Flow(), steps, solver="ddim")
        return draw_samples(model.denoiser, way, world.shape, None, Draws(SAMPLES, seed, "sample"))

    target, coarse = ends(teacher, 32), ends(teacher, 2)
    made = ends(run(WithoutStart if ablation else SDXLLightning), 2)
    apart = [float((x - target).square().sum(1).mean().sqrt()) for x in (made, coarse)]
    swd = [sliced_wasserstein(x, target, p=1) for x in (made, coarse)]
    claim = "2 steps / the teacher's own 2"
    return [
        at_most(f"distance from the same noise to the teacher's ends: {claim}", apart[0] / apart[1], 0.45),
        at_most(f"SWD to the teacher's ends: {claim}", swd[0] / swd[1], 0.2),
        *scale,
    ]
