"""tbcm: one call of a student trained without data comes close to the teacher's many steps, where the
teacher's one step returns only the mean."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import trained
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.trajectory.tbcm import TBCM
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData, NoData
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "tangent": "The tangent is off: the student's velocity is only matched to the teacher's, and its one "
    "call is the teacher's one step.",
    "data": "The states are noised data (plain continuous-time consistency), not the teacher's own path.",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract(
    options={"levels": 4, "warmup": 2, "low_guidance": 1.0, "high_guidance": 3.0, "adaptive": True}
)
OPTIONS: dict[str, dict[str, Any]] = {"tangent": {"tangent_share": 0.0}, "data": {"states": "data"}, "": {}}
SAMPLES = 4096


class Watched(TBCM):
    """Counts the rows of data that its losses are handed."""

    handed = 0

    def student_loss(self, batch: Batch) -> Tensor:
        self.handed += 0 if batch.x is None else len(batch.x)
        return super().student_loss(batch)


def check(seed: int, ablation: str = "") -> list[Claim]:
    """On a ring of about unit variance, as the method has its states; SWD is to the teacher's 64 steps."""
    scale = guided(
        lambda w: TBCM(levels=8, warmup=150, low_guidance=w, high_guidance=w),
        seed,
        600,
        ablation,
        batch=32,
    )
    if ablation == "guidance":
        return scale
    world = get_world(WORLD, radius=1.5, std=0.12)
    teacher = load(world.exact(Flow()), shape=world.shape)
    method = Watched(warmup=150, **OPTIONS[ablation])
    data = InfiniteData(world) if method.requires("data") else NoData(world.shape)
    network = world.network(Flow(), seed, width=64, depth=2)
    student = trained(method, teacher, data, 700, seed, student=network, batch=32)

    many = teacher.sample(SAMPLES, steps=64, seed=seed)

    def distance(samples: Tensor) -> float:
        return sliced_wasserstein(samples, many)

    one_step = draw_samples(
        teacher.denoiser, Sampling([1.0, 0.0], "ddim"), world.shape, None, Draws(SAMPLES, seed, "one step")
    )
    one, two = (distance(student.sample(SAMPLES, steps=k, seed=seed + 1)) for k in (1, 2))
    return [
        at_most("SWD of 1 call / of the teacher's 1 step", one / distance(one_step), 0.3),
        at_most("SWD of 2 calls / of the teacher's 1 step", two / distance(one_step), 0.3),
        at_most("rows of data handed to the loss", method.handed, 0),
        *scale,
    ]
