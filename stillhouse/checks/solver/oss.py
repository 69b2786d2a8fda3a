"""oss: searched times follow the teacher far better than even ones, on noises that the search did not use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Cosine, Flow
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.parts.states.schedule_search import search, straight_times, walk
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.base import Work
from stillhouse.systems.solver.oss import OSS, slope_of
from stillhouse.train.data import NoData
from stillhouse.worlds.mixture.layouts import make_mixture

WORLD = "mixture"
ABLATIONS = {"search": "A random schedule of the same length stands in the place of the searched one."}
CONTRACT = Contract(
    options={"steps": 3, "grid_steps": 12, "searched": 4, "guidance": 2.0},
    process=Cosine(),
    kind="v",
    network={"width": 16, "depth": 1, "classes": 8},
)
GRID, FRESH = 100, 1000
STEPS = (4, 5, 6, 8)


def random_path(steps: int, seed: int, trial: int) -> list[int]:
    """Falling indices from the noisy end to 0 with the steps between them drawn at random."""
    generator = torch.Generator().manual_seed(10_000 * seed + 100 * steps + trial)
    between = torch.randperm(GRID - 1, generator=generator)[: steps - 1] + 1
    return [GRID, *sorted(between.tolist(), reverse=True), 0]


def deviation(model: Model, times: Sequence[float], reference: Tensor, seed: int) -> float:
    """Mean squared distance of the ends of trajectories from the teacher's own, over fresh noises."""
    walked = Model(model.denoiser, model.shape, samplings={len(times) - 1: Sampling([*times], "ddim")})
    return float((walked.sample(FRESH, seed=seed) - reference).square().mean())


def own_noise(teacher: Model, base: Sampling, seed: int) -> float:
    """The worst ratio to even steps over :data:`STEPS`, each sample searched for by itself."""
    grid = list(reversed(base.times))
    times, slope = (
        straight_times(teacher.denoiser.process, grid),
        slope_of(teacher.denoiser, base, grid, None),
    )
    y = Draws(64, seed, "own").normal(2)
    with torch.no_grad():
        end = walk(slope, y, times, range(GRID, -1, -1))[-1]
        tables = search(slope, y, times, max(STEPS), each=True)
        worst = 0.0
        for steps in STEPS:
            even = [round(GRID * k / steps) for k in range(steps, -1, -1)]
            usual = (walk(slope, y, times, even)[-1] - end).square().mean()
            found = torch.cat(
                [walk(slope, y[g : g + 1], times, tables.path(steps, g))[-1] for g in range(len(y))]
            )
            worst = max(worst, float((found - end).square().mean() / usual))
    return worst


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The exact teacher of the grid of 25 on a flow, 100 Euler steps; 4, 5, 6 and 8 of them are chosen by one
    search over 64 noises, and measured on 1,000 others.

    On the ring, where even times are already near the best, the ratio is only 0.7 to 0.8.
    """
    world = make_mixture("grid")
    teacher = load(world.exact(Flow()), shape=world.shape)
    base = Sampling.steps(teacher.denoiser.process, GRID, solver="ddim")
    grid = list(reversed(base.times))
    fresh = seed + 1000
    reference = Model(teacher.denoiser, teacher.shape, samplings={GRID: base}).sample(FRESH, seed=fresh)
    found = OSS(steps=max(STEPS), grid_steps=GRID, searched=64).apply(
        {"teacher": teacher}, Work(NoData(teacher.shape), seed, quiet=True)
    )
    ratios, margins = [], []
    for steps in STEPS:
        times = found.samplings[steps].times
        if ablation:
            times = [grid[i] for i in random_path(steps, seed, 99)]
        even = Sampling.steps(teacher.denoiser.process, steps, solver="ddim").times
        mine = deviation(teacher, times, reference, fresh)
        ratios.append(mine / deviation(teacher, even, reference, fresh))
        others = [[grid[i] for i in random_path(steps, seed, trial)] for trial in range(20)]
        mean = sum(deviation(teacher, o, reference, fresh) for o in others) / len(others)
        margins.append(mean / mine)
    claims = [
        at_most("deviation from the teacher, searched / even times, worst of 4 to 8 steps", max(ratios), 0.6),
        at_least(
            "deviation, mean of 20 random schedules / searched, least of 4 to 8 steps",
            min(margins),
            3,
        ),
    ]
    if not ablation:
        claims.append(
            at_most(
                "searched / even times where each noise is searched by itself",
                own_noise(teacher, base, seed),
                0.6,
            )
        )
    return claims
