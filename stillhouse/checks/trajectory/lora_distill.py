"""lora_distill: a small adapter on the teacher's own weights does in one evaluation what guidance does in
two."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.core.denoiser import Denoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.guidance import Guided
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.trajectory.lora_distill import LoraDistill
from stillhouse.train.data import InfiniteData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

WORLD = "mixture"
ABLATIONS = {
    "unguided": "The adapter's target is the conditional prediction: it folds in nothing.",
    "adapter_on": "The teacher is read with the adapter on, so that the target runs away from the student.",
}
CONTRACT = Contract(options={"guidance": 3.0, "steps": 4})
SAMPLES, GUIDANCE, STEPS = 2048, 3.0, 32


class AdapterOn(LoraDistill):
    """The guided teacher is made of the student itself."""

    def guided_teacher(self) -> Denoiser:
        return Guided(self.student, self.guidance)


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The shipped network of the labelled ring at ``w = 3``; samples in 32 DDIM steps from common noise are
    compared."""
    world, teacher = get_world(WORLD), load("mixture")
    original = teacher.denoiser.copy().eval()
    kind = AdapterOn if ablation == "adapter_on" else LoraDistill
    method = kind(guidance=1.0 if ablation == "unguided" else GUIDANCE, rank=4, steps=STEPS, solver="ddim")
    recipe = Recipe(steps=800, batch=256, seed=seed, lr={"student": 6e-3}, schedule="cosine", ema=0.99)
    trainer = Trainer(method, teacher, InfiniteData(world, labelled=True), recipe, quiet=True)
    trained = trainer.fit()

    labels = torch.arange(SAMPLES) % world.classes

    def walk(denoiser: Denoiser, guidance: float = 1.0) -> tuple[Tensor, int]:
        way = Sampling.steps(original.process, STEPS, solver="ddim", guidance=guidance)
        with count_calls(denoiser) as calls:
            return draw_samples(denoiser, way, world.shape, labels, Draws(SAMPLES, seed, "sample")), calls()

    (guided, twice), (plain, _), (folded, once) = (
        walk(original, GUIDANCE),
        walk(original),
        walk(trained.denoiser.eval()),
    )

    def away(samples: Tensor) -> float:
        return float((samples - guided).square().sum(1).mean())

    trainable = sum(p.numel() for p in method.student.parameters())
    return [
        at_most(
            "squared distance to the guided teacher's samples / that of the unguided ones",
            away(folded) / away(plain),
            0.02,
        ),
        at_most(
            "share of weights that learn", trainable / sum(p.numel() for p in original.parameters()), 0.15
        ),
        at_most("evaluations / those of the guided teacher", once / twice, 0.5),
    ]
