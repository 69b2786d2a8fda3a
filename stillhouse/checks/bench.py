"""What the checks of one-step students on the ring of Gaussians share: one run against a closed-form teacher,
and its figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.metrics.distances import sliced_wasserstein
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.train.data import Data, NoData
from stillhouse.train.loop import Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.world import Mixture

SAMPLES = 20_000  # the chance sizes of the modes alone cost about 0.06 of sliced W2


@dataclass(frozen=True)
class Figures:
    """Sliced W2 to the data, modes that hold a quarter of their weight, share of samples more than 4
    deviations off every mode."""

    swd: float
    modes: int
    off_mode: float


def figures(samples: torch.Tensor, world: Mixture, seed: int) -> Figures:
    """Of ``samples`` (SAMPLES, D), against a reference whose modes have exactly their sizes."""
    labels = world.labels.repeat_interleave((world.weights * SAMPLES).round().long())
    reference, _ = world.sample_data(SAMPLES, Draws(SAMPLES, seed, "reference"), labels)
    swd = sliced_wasserstein(samples, reference, projections=64)
    return Figures(swd, world.modes_held(samples), world.off_mode(samples))


def shipped_network() -> Denoiser:
    """The shipped small network of the ring: where students of closed-form teachers start."""
    return load("mixture").denoiser.copy()


def distilled(
    method: Method,
    world: Mixture,
    steps: int,
    seed: int,
    *,
    lr: dict[str, float] | None = None,
    network: Denoiser | None = None,
    data: Data | None = None,
) -> Model:
    """``steps`` iterations of ``method`` under the closed-form teacher of ``world``, by batches of 256.

    ``network``: where the student starts, the shipped one unless given. ``lr``: player -> learning rate, over
    the method's own.
    """
    network = network or shipped_network()
    teacher = load(world.exact(network.process), shape=world.shape)
    recipe = Recipe(steps=steps, batch=256, seed=seed, lr=lr or {}, schedule="cosine", ema=0.99)
    return Trainer(method, teacher, data or NoData(world.shape), recipe, student=network, quiet=True).fit()
