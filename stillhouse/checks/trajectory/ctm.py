"""ctm: one call comes close to the data, and more deterministic calls come closer to where the teacher's path
ends."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import distilled, reference
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE
from stillhouse.metrics.distances import paired_rmse, sliced_wasserstein
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.trajectory.ctm import CTM
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "endpoint": "The target is the teacher's clean estimate at the noisy state itself, not where its path "
    "leads.",
    "one_end": "Jumps are trained to the clean end alone, as a consistency model's are.",
}
CONTRACT = Contract(
    options={"levels": 8, "critic_from": 0.5},
    process=VE(),
    kind="edm",
    means={"levels": 8, "denoising": False},
)
SAMPLES = 8192


class Endpoint(CTM):
    """Plain regression onto the denoiser."""

    def target_x0(self, x_t: Tensor, times: list[Tensor], s: Tensor, batch: Batch) -> Tensor:
        return self.teacher(x_t, times[0], batch.cond).x0


class OneEnd(CTM):
    """``s`` is always the lowest level."""

    def draw_times(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        i, j, n = super().draw_times(batch)
        return i, torch.full_like(j, self.levels - 1), n


def check(seed: int, ablation: str = "") -> list[Claim]:
    """SWD is the sliced Wasserstein-1 distance; the RMSE pairs the student's samples with the teacher's from
    the same noise."""
    world, process = get_world(WORLD), VE()
    exact = world.exact(process)
    method = {"": CTM, "endpoint": Endpoint, "one_end": OneEnd}[ablation](levels=18, segment=4, decay=0.95)
    student = world.network(process, seed, kind="edm", width=64, depth=3, classes=0, two_time=True)
    trained = distilled(
        method, world, 1800, seed, network=student, data=InfiniteData(world), batch=512, lr=1e-2
    )

    data = reference(world, SAMPLES, seed)

    def teacher(steps: int) -> Tensor:
        way = Sampling.steps(process, steps, solver="heun", grid="karras")
        return draw_samples(exact, way, world.shape, None, Draws(SAMPLES, seed, "sample"))

    one, four, end = (
        trained.sample(SAMPLES, steps=1, seed=seed),
        trained.sample(SAMPLES, steps=4, seed=seed),
        teacher(100),
    )
    single = sliced_wasserstein(one, data, p=1) / sliced_wasserstein(teacher(1), data, p=1)
    return [
        at_most("SWD of 1 call / of the teacher's 1 step", single, 0.25),
        at_most(
            "paired RMSE to the teacher's end, 4 calls / 1 call",
            paired_rmse(four, end) / paired_rmse(one, end),
            0.95,
        ),
    ]
