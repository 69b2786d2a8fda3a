"""sid: the projected Fisher distance keeps every mode; the bare distance of the two scores drives the student
to where they agree."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import SAMPLES, distilled, figures, shipped_network
from stillhouse.checks.guided import NO_GUIDANCE, guided
from stillhouse.core.draws import Draws
from stillhouse.samplers.draw import draw_samples
from stillhouse.systems.distribution.sid import SiD
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = "mixture"
ABLATIONS = {
    "projection": "The loss is the squared difference of the two denoisers, along the same gradient path, "
    "with no projected term.",
    "guidance": NO_GUIDANCE,
}
CONTRACT = Contract()


@dataclass
class Direct(SiD):
    """The Fisher divergence's direct term alone."""

    def fisher(self, x: Tensor, d_real: Tensor, d_fake: Tensor) -> Tensor:
        return (d_real - d_fake).square()


def check(seed: int, ablation: str = "") -> list[Claim]:
    scale = guided(lambda w: SiD(guidance=w), seed, 400, ablation)
    if ablation == "guidance":
        return scale
    world, method = make_mixture(), (Direct if ablation else SiD)()
    untrained, way = shipped_network(), method.samplings()[1]
    before = figures(
        draw_samples(untrained, way, world.shape, None, Draws(SAMPLES, seed, "sample")), world, seed
    )
    after = figures(distilled(method, world, 600, seed).sample(SAMPLES, seed=seed), world, seed)
    return [
        at_most("SWD of 1 call / before training", after.swd / before.swd, 0.5),
        at_least("modes held, of 8", after.modes, 8),
        *scale,
    ]
