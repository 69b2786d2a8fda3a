"""snoopi: a student trained with negative prompts in its attention follows them in one call; one trained
without them does not."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import trained
from stillhouse.core.conditions import Condition, as_parts
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.process import Process
from stillhouse.core.schedules import Flow
from stillhouse.opening import load
from stillhouse.parts.players.negative import Negative
from stillhouse.samplers.draw import draw_samples
from stillhouse.systems.distribution.snoopi import Snoopi
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.data import InfiniteData, Prompts
from stillhouse.worlds.mixture.world import Mixture

WORLD = "mixture"
ABLATIONS = {
    "negatives": "Trained without negative prompts: their weight is 0 throughout, and the teacher is "
    "guided away from none."
}
CONTRACT = Contract(options={"first_time": 0.7, "rank": 2})
WORDS = ("left", "right", "up", "down")
AWAY = torch.tensor([1.0, -1.0, -1.0, 1.0])  # where each of them is not, along its own axis
ROWS = 500  # of each pair
ALPHA = 0.1
STEPS = 400
START = 0.7
RATES = {"student": 1e-3, "fake": 1e-3}


class Words(ExactDenoiser):
    """The closed-form teacher, conditioned on one of the words."""

    def __init__(self, world: Mixture, process: Process):
        super().__init__(process)
        self.exact = world.exact(process)

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition = None) -> Tensor:
        return self.exact.mean(x_t, t, None if cond is None else as_parts(cond)["tokens"][:, 0].argmax(1))


class FourModes(Mixture):
    """Modes at (±2, ±2), each of them twice: under its left or right, and under its up or down. A condition
    is one word."""

    def __init__(self) -> None:
        corners = torch.tensor([[-2.0, 2.0], [-2.0, -2.0], [2.0, 2.0], [2.0, -2.0]])
        super().__init__(
            torch.cat([corners, corners[[0, 2, 1, 3]]]),
            torch.full((8,), 0.3),
            torch.ones(8),
            torch.arange(8) // 2,
        )

    def condition(self, labels: Tensor | None) -> Condition:
        return None if labels is None else {"tokens": torch.eye(len(WORDS))[labels][:, None]}


def pretrained(world: FourModes, seed: int) -> Denoiser:
    """A network that cross-attends to the word in each of four blocks, trained as a teacher would be."""
    network = world.network(Flow(), seed, width=64, depth=4, classes=0, token_dim=len(WORDS))
    teacher, data = load(Words(world, Flow()), shape=world.shape), InfiniteData(world, labelled=True)
    return trained(Denoising(), teacher, data, 300, seed, student=network, batch=128, ema=0.98).denoiser


def distilled(world: FourModes, start: Denoiser, method: Snoopi, seed: int) -> Denoiser:
    data = Prompts(world.shape, world.condition(torch.arange(len(WORDS))))
    teacher = load(Words(world, Flow()), shape=world.shape)
    return trained(
        method, teacher, data, STEPS, seed, student=start.copy(), batch=128, lr=RATES, schedule="cosine"
    ).denoiser


def on_its_side(world: FourModes, method: Snoopi, student: Denoiser, alpha: float, seed: int) -> float:
    """Of samples of one word without another of the other axis, all eight pairs of them, the share on the
    side away from the second."""
    pairs = torch.tensor([(c, n) for c in range(4) for n in range(4) if c // 2 != n // 2]).repeat(ROWS, 1)
    prompt, negative = world.condition(pairs[:, 0]), world.condition(pairs[:, 1])
    draws = Draws(len(pairs), seed, "sample")
    x = draw_samples(Negative(student, negative, alpha), method.samplings()[1], world.shape, prompt, draws)
    away = x[torch.arange(len(x)), pairs[:, 1] // 2] * AWAY[pairs[:, 1]]
    return float((away > 0).double().mean())


def check(seed: int, ablation: str = "") -> list[Claim]:
    """Words left and right, up and down; the negative one at a weight of 0.1, where training drew from 0 to
    1."""
    world, negatives, plain = FourModes(), Snoopi(first_time=START, nasa=1.0), Snoopi(first_time=START)
    start = pretrained(world, seed)
    without = on_its_side(world, plain, distilled(world, start, plain, seed), ALPHA, seed)
    with_them = (
        without
        if ablation
        else on_its_side(world, negatives, distilled(world, start, negatives, seed), ALPHA, seed)
    )
    return [
        at_least("trained with negatives: samples on the side away from the negative word", with_them, 0.9),
        at_most("trained without: samples on that side", without, 0.6),
    ]
