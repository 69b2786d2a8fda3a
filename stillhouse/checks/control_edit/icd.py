"""icd: three calls up and three calls down bring every point back, where as many DDIM steps of the exact
teacher lose it."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import distilled, reference, shipped_network
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import ScaledLinearVP
from stillhouse.metrics.distances import paired_rmse, sliced_wasserstein
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.control_edit.icd import ICD, encode, follow, level_times
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "preserve": "The two maps are not trained as each other's inverse; each is consistent with the "
    "teacher's path "
    "alone."
}
CONTRACT = Contract(
    options={"segments": 2, "levels": 6, "high_guidance": 4.0}, process=ScaledLinearVP(), kind="v"
)
SAMPLES, SEGMENTS, LEVELS = 4096, 3, 24


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The closed form of the ring, without guidance; both maps start as its shipped network. There and back
    is from the lowest level up to pure noise and down to the lowest level again."""
    world, student = get_world(WORLD), shipped_network()
    process = student.process
    exact = world.exact(process)
    method = ICD(segments=SEGMENTS, levels=LEVELS, high_guidance=1.0, preserve=0.0 if ablation else 1.5)
    rate = 2e-3
    rates, data = {"student": rate, "forward": rate}, InfiniteData(world)
    trained = distilled(method, world, 1600, seed, network=student, data=data, batch=192, lr=rates, ema=0.98)
    forward = trained.networks["inverse"]

    x = reference(world, SAMPLES, seed)
    lowest = float(level_times(process, LEVELS)[1])
    down = [t for t in trained.sampling().times if t > lowest] + [lowest]
    start = process.noise(
        x, torch.full((SAMPLES,), lowest), Draws(SAMPLES, seed, "start").normal(*world.shape)
    )

    def cycle(forward, reverse) -> float:  # type: ignore[no-untyped-def]
        with torch.inference_mode():
            return paired_rmse(follow(reverse, follow(forward, start, down[::-1]), down), start)

    def distance(samples: Tensor) -> float:
        return sliced_wasserstein(samples, x, p=1)

    one = draw_samples(
        exact, Sampling.steps(process, 1, solver="ddim"), world.shape, None, Draws(SAMPLES, seed, "sample")
    )
    spread = float(encode(trained, x, seed=seed).std())
    made = distance(trained.sample(SAMPLES, seed=seed))
    return [
        at_most(
            "RMSE of 3 + 3 calls there and back / of the exact teacher's DDIM",
            cycle(forward, trained.denoiser) / cycle(exact, exact),
            0.03,
        ),
        at_least("standard deviation of encoded data", spread, 0.8),
        at_most("standard deviation of encoded data", spread, 1.1),
        at_most("SWD of 3 calls / of the teacher's single step", made / distance(one), 0.35),
    ]
