"""cfd: the clean flow is DDIM; noise that is fixed on the object, and not on each camera, lets the views
agree on one of its modes."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.api.evaluate import exact_teacher
from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.checks.bench import trained
from stillhouse.core.conditions import Condition
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow, LinearVP
from stillhouse.models.scenes import Points
from stillhouse.parts.scenes.distill_3d import clean_flow
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers import make_solver
from stillhouse.systems.score_3d.cfd import CFD
from stillhouse.worlds.mixture.layouts import make_mixture
from stillhouse.worlds.objects.world import Objects

WORLD = "objects"
ABLATIONS = {
    "per-camera": "Each camera has a fixed noise of its own: the views follow flows that have nothing to "
    "do with each other.",
    "fresh": "Every step draws its noise anew (score distillation sampling at falling times).",
}
CONTRACT = Contract(
    options={"scene": "points", "size": 1, "scenes": 4, "gamma": 0.1, "guidance": 1.5},
    world={"name": "objects", "kind": "cube"},
    still=True,
)
SEEDS = 300  # objects made at once, each from its own noise


class Views:
    """A row for each of ``scenes`` objects, seen by a camera drawn at random. No data."""

    classes = 0

    def __init__(self, world: Objects):
        self.world, self.shape = world, world.shape

    def rows(self, start: int, draws: Draws) -> tuple[None, Condition]:
        return None, self.world.condition(draws.integers(0, len(self.world.cameras)))

    def examples(self, n: int) -> Condition:
        return self.world.condition(self.world.balanced_labels(n))


def points(noise: str, seed: int, world: Objects) -> Tensor:
    """Where 300 points in space come to lie, (300, 3)."""
    method = CFD(scene="points", size=1, scenes=SEEDS, noise=noise, gamma=0.0)
    teacher = exact_teacher(world, Flow())
    student = method.make_student(teacher.denoiser)
    trained(method, teacher, Views(world), 600, seed, student=student, batch=SEEDS, ema=0)
    assert isinstance(student.net, Points)
    return student.net.centre.detach()[:, 0]


def gap(seed: int) -> float:
    """The largest difference between Euler on the clean-flow ODE and DDIM, on one grid from one noise."""
    world = make_mixture()
    model, eps = world.exact(LinearVP()), Draws(256, seed, "start").normal(2, dtype=torch.float64)
    grid = torch.linspace(1, 0, 33, dtype=torch.float64).tolist()
    start = model.process.sigma(torch.ones((), dtype=torch.float64)) * eps
    with torch.no_grad():
        return float(
            (clean_flow(model, eps, grid) - rollout(model, start, grid, make_solver("ddim"))).abs().max()
        )


def check(seed: int, ablation: str = "") -> list[Claim]:
    world = Objects(kind="cube")
    fixed, fresh = (world.held(points(noise, seed, world)) for noise in ("per-camera", "fresh"))
    mine = {"per-camera": fixed, "fresh": fresh}.get(ablation)
    mine = world.held(points("consistent", seed, world)) if mine is None else mine
    return [
        at_most("Euler on the clean flow against DDIM: largest difference", gap(seed), 1e-5),
        at_least("points within 3 deviations of a mode, one noise for all cameras", mine, 0.7),
        at_least("more of them than with a fixed noise for each camera", mine - fixed, 0.25),
        at_most("points within 3 deviations of a mode, fresh noise", fresh, 0.2),
    ]
