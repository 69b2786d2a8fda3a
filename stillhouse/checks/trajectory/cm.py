"""cm: one call of a consistency model comes close to the teacher's many, where the teacher's own single call
returns only the mean."""

from __future__ import annotations

from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import distilled, reference
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.trajectory.cm import CM
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "endpoint": "The target is the teacher's clean estimate at the noisy state itself, not the consistent "
    "estimate one step on.",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract(process=VE(), kind="edm")
SAMPLES = 8192


class Endpoint(CM):
    """Plain regression onto the denoiser: the student learns the mean of all the data that a state may come
    from."""

    def neighbour(
        self, x_t: Tensor, t: Tensor, u: Tensor, eps: Tensor, batch: Batch, w: Tensor | None
    ) -> Tensor:
        return self.teacher(x_t, t, batch.cond).x0

    def target_x0(self, x_u: Tensor, u: Tensor, batch: Batch, w: Tensor | None) -> Tensor:
        return x_u


def check(seed: int, ablation: str = "") -> list[Claim]:
    """SWD is the sliced Wasserstein-1 distance: of order 2, it would measure the chance sizes of the modes
    and little else."""
    scale = guided(
        lambda w: CM(levels=18, decay=0.95, low_guidance=w, high_guidance=w),
        seed,
        600,
        ablation,
        lr=2e-3,
    )
    if ablation == "guidance":
        return scale
    world, process = get_world(WORLD), VE()
    exact = world.exact(process)
    method = (Endpoint if ablation == "endpoint" else CM)(levels=18, decay=0.95)
    student = world.network(process, seed, kind="edm", width=64, depth=3, classes=0)
    samples = InfiniteData(world)
    trained = distilled(
        method, world, 2000, seed, network=student, data=samples, batch=512, lr=1e-2, schedule=""
    )

    data = reference(world, SAMPLES, seed)

    def distance(samples: Tensor) -> float:
        return sliced_wasserstein(samples, data, p=1)

    def teacher(steps: int) -> float:
        way = Sampling.steps(process, steps, solver="heun", grid="karras")
        return distance(draw_samples(exact, way, world.shape, None, Draws(SAMPLES, seed, "sample")))

    one = distance(trained.sample(SAMPLES, steps=1, seed=seed))
    return [
        at_most("SWD of 1 call / of the teacher's 1 call", one / teacher(1), 0.3),
        at_most("SWD of 1 call / of the teacher's 64 steps", one / teacher(64), 4.0),
        *scale,
    ]
