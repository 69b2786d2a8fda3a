"""What checks share: a run in one call, one against a closed-form teacher, true samples, and the figures of
one-step students on the ring of Gaussians."""

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
from stillhouse.worlds.base import World
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


def reference(world: World, n: int, seed: int) -> torch.Tensor:
    """``n`` true samples (n, *shape), as many of each label."""
    return world.sample_data(n, Draws(n, seed, "reference"), torch.arange(n) % world.classes)[0]


def trained(
    method: Method,
    teacher: Model,
    data: Data,
    steps: int,
    seed: int,
    *,
    student: Denoiser | None = None,
    batch: int = 256,
    lr: float | dict[str, float] | None = None,
    schedule: str = "",
    ema: float = 0.99,
) -> Model:
    """``steps`` iterations of ``method``.

    ``student``: where it starts, which the run changes; the method's own unless given. ``lr``: learning
    rate of the student, or of players by name, over the method's own, as ``schedule`` is.
    """
    rates = {"student": lr} if isinstance(lr, float) else lr or {}
    recipe = Recipe(steps=steps, batch=batch, seed=seed, lr=rates, schedule=schedule, ema=ema)
    return Trainer(method, teacher, data, recipe, student=student, quiet=True).fit()


def distilled(
    method: Method,
    world: World,
    steps: int,
    seed: int,
    *,
    network: Denoiser | None = None,
    data: Data | None = None,
    batch: int = 256,
    lr: float | dict[str, float] | None = None,
    schedule: str = "cosine",
    ema: float = 0.99,
) -> Model:
    """:func:`trained` under the closed-form teacher of ``world``.

    ``network``: where the student starts, the shipped one unless given. ``data``: none unless given.
    """
    network = network or shipped_network()
    teacher, data = load(world.exact(network.process), shape=world.shape), data or NoData(world.shape)
    return trained(
        method, teacher, data, steps, seed, student=network, batch=batch, lr=lr, schedule=schedule, ema=ema
    )
