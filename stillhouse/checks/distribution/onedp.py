"""onedp: two ways of one call each where the teacher's own one call returns the mean of both, which is
neither."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.api.evaluate import exact_teacher
from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import trained
from stillhouse.core.flowmap import predict_x0
from stillhouse.core.prediction import At
from stillhouse.core.schedules import Flow
from stillhouse.model import Model
from stillhouse.systems.distribution.onedp import OneDP
from stillhouse.train.batch import Batch
from stillhouse.train.data import Prompts
from stillhouse.worlds.control.world import Control

WORLD = "control"
ABLATIONS = {
    "regression": "Regression onto the teacher's own one-step sample in the place of the score difference.",
    "weight": "The deterministic form with the weight alpha in the place of alpha^2: more weight at high "
    "noise.",
}
CONTRACT = Contract(options={"fake_per_student": 2}, world={"name": "control", "task": "bandit"})
SAMPLES = 1024
RATES = {"student": 1e-3, "fake": 2e-3}


@dataclass
class Regression(OneDP):
    """The teacher's one call from the same noise as the target."""

    def build(self) -> None:
        pass

    def turns(self, step: int) -> list[str]:
        return ["student"]

    def student_loss(self, batch: Batch) -> Tensor:
        x = batch.noise() * (1.0 if self.noisy else 0.0)
        t = x.new_full((batch.rows,), self.first_time)
        with torch.no_grad():
            target = predict_x0(self.teacher, x, t, batch.cond)
        return (predict_x0(self.student, x, t, batch.cond) - target).square().mean()


@dataclass
class Flatter(OneDP):
    """``alpha (A - D)``."""

    def weight(self, at: At) -> Tensor:
        return super().weight(at).sqrt()


def distilled(method: OneDP, world: Control, teacher: Model, iterations: int, seed: int) -> dict[str, float]:
    """One-call actions of the student under observations that it was not trained on."""
    data = Prompts(world.shape, world.condition(world.data("train")[1]))
    rates = {player: RATES[player] for player in {*method.turns(0), "student"}}
    student = world.network(Flow(), seed, width=128, depth=2)
    model = trained(method, teacher, data, iterations, seed, student=student, lr=rates, schedule="cosine")
    labels = world.balanced_labels(SAMPLES, "test")
    return world.measure(model.sample(SAMPLES, world.condition(labels), seed=seed), labels)


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The card's bandit: an observation o in [-1, 1], an expert who does (1, o) or -(1, o), and a teacher in
    closed form."""
    world = Control(task="bandit")
    teacher = exact_teacher(world, Flow(), 50, "ddim")
    kind = {"regression": Regression, "weight": Flatter}.get(ablation, OneDP)
    labels, claims = world.balanced_labels(SAMPLES, "test"), []

    def own(steps: int) -> float:
        return world.measure(
            teacher.sample(SAMPLES, world.condition(labels), steps=steps, seed=seed), labels
        )["success"]

    claims += [
        at_least("success of the teacher's 50 steps", own(50), 0.99),
        at_most("success of the teacher's one step", own(1), 0.01),
    ]
    if ablation != "weight":
        both = distilled(kind(fake_per_student=2), world, teacher, 1200, seed)
        claims += [
            at_least("OneDP-S, 1 call: success", both["success"], 0.75),
            at_least("OneDP-S: share of the first way", both["left"], 0.35),
            at_most("OneDP-S: share of the first way", both["left"], 0.65),
        ]
    one = distilled(kind(form="deterministic"), world, teacher, 600, seed)
    claims += [
        at_least("OneDP-D, 1 call: success", one["success"], 0.95),
        at_least(
            "OneDP-D: share of the way that it takes more often", max(one["left"], 1 - one["left"]), 0.95
        ),
    ]
    return claims
