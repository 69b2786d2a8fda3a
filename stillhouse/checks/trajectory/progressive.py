"""progressive: halved again and again, the student keeps the many-step teacher's quality where DDIM's few
steps lose it."""

from __future__ import annotations

from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import reference, trained
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.flowmap import ddim_step
from stillhouse.core.schedules import Cosine
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.trajectory.progressive import Progressive
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "data": "The target is the real clean sample: plain fine-tuning of the denoiser.",
    "last_estimate": "The target is the teacher's last clean estimate, not the one whose single step lands "
    "where its two do.",
}
CONTRACT = Contract(options={"teacher_steps": 4})
SAMPLES = 16384


class FromData(Progressive):
    """The target is the data."""

    def student_loss(self, batch: Batch) -> Tensor:
        self.real = batch.data
        return super().student_loss(batch)

    def target(self, x_t: Tensor, t: Tensor, middle: Tensor, s: Tensor, cond: Condition) -> Tensor:
        return self.real


class LastEstimate(Progressive):
    """The target is the second of the teacher's two estimates."""

    def target(self, x_t: Tensor, t: Tensor, middle: Tensor, s: Tensor, cond: Condition) -> Tensor:
        teacher = self.teacher if self.stage == 0 else self.previous
        return teacher(ddim_step(teacher(x_t, t, cond), middle), middle, cond).x0


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The exact denoiser is distilled into a network, which is the 64-step teacher; SWD is the sliced
    Wasserstein-1 distance."""
    world, process = get_world(WORLD), Cosine()
    kind = {"": Progressive, "data": FromData, "last_estimate": LastEstimate}[ablation]

    def halve(
        teacher: Model, method: Progressive, steps: int, lr: float, student: Denoiser | None = None
    ) -> Model:
        data = InfiniteData(world)
        return trained(method, teacher, data, steps, seed, student=student, batch=512, lr=lr, ema=0.0)

    fresh = world.network(process, seed, kind="v", width=64, depth=3, classes=0)
    base = halve(load(world.exact(process), shape=world.shape), Progressive(128, 64), 1200, 3e-3, fresh)
    four = halve(base, kind(64, 4), 1200, 1e-3)
    one = halve(four, kind(4, 1), 1800, 1e-3)

    data = reference(world, SAMPLES, seed)

    def distance(model: Model, steps: int) -> float:
        way = Sampling.steps(process, steps, solver="ddim")
        return sliced_wasserstein(
            draw_samples(model.denoiser, way, world.shape, None, Draws(SAMPLES, seed, "sample")), data, p=1
        )

    whole = distance(base, 64)
    return [
        at_most("SWD of the 4-step student / of its 64-step teacher", distance(four, 4) / whole, 1.5),
        at_most("SWD of the 1-step student / of its 64-step teacher", distance(one, 1) / whole, 1.5),
        at_most(
            "SWD of the 4-step student / of the teacher's 4 steps", distance(four, 4) / distance(base, 4), 0.4
        ),
        at_most(
            "SWD of the 1-step student / of the teacher's 1 step", distance(one, 1) / distance(base, 1), 0.1
        ),
    ]
