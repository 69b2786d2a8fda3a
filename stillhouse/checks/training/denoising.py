"""denoising: a network trained on data alone makes new samples of it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.checks.bench import SAMPLES, figures, trained
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import Flow
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = "mixture"
ABLATIONS = {"clean": "The target is the noised state itself, not the data in it: nothing is denoised."}
CONTRACT = Contract(options={"steps": 4})
ITERATIONS, STEPS = 800, 32


class Unchanged(Denoising):
    """The target is the network's own input."""

    def student_loss(self, batch: Batch) -> Tensor:
        t = batch.draws.uniform()
        x_t = self.process.noise(batch.data, t, batch.noise())
        return (self.student(x_t, t, self.condition(batch)).x0 - x_t).square().flatten(1).mean(1).mean()


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The ring of Gaussians, of which the network is given samples and nothing else."""
    world = make_mixture()
    network: Denoiser = world.network(Flow(), seed, width=64, depth=3, classes=0)
    untrained: Model = load(network.copy(), shape=world.shape)
    method = (Unchanged if ablation else Denoising)(steps=STEPS)
    model = trained(method, untrained, InfiniteData(world), ITERATIONS, seed, student=network)
    made = figures(model.sample(SAMPLES, seed=seed), world, seed)
    before = replace(untrained, samplings=model.samplings).sample(SAMPLES, seed=seed)
    return [
        at_most(
            "SWD of the trained network / of the untrained", made.swd / figures(before, world, seed).swd, 0.25
        ),
        at_most("share of samples off every mode", made.off_mode, 0.2),
    ]
