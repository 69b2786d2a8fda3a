"""What an iteration costs whatever its networks are: milliseconds of the CPU beside the same network calls
bare.

    OMP_NUM_THREADS=1 python -m benchmarks.fixed [SLUG …] [--rounds 9] [--calls 40]

On `mixture`, whose networks take less than a millisecond. Every round makes ``calls`` iterations and
``calls`` replays of one iteration's network calls (see :mod:`benchmarks.replay`); the CPU's time is counted
and not the clock's, so that a busy machine only adds noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import table
from benchmarks.replay import again, recorded
from stillhouse.opening import load
from stillhouse.systems.registry import find
from stillhouse.train.data import InfiniteData, NoData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

# options with which every iteration has the same turns
SAME: dict[str, dict[str, Any]] = {
    "dmd2": {"gan_weight": 0.0, "first_time": 0.7, "fake_per_student": 1},
    "sid": {},
    "cm": {},
}


def trainer(slug: str, batch: int = 64) -> Trainer:
    """A trainer of the method on the ring of Gaussians, from the shipped teacher."""
    world, method = get_world("mixture"), find(slug)(**SAME.get(slug, {}))
    data = InfiniteData(world) if method.requires("data") else NoData(world.shape)
    recipe = Recipe(steps=100_000, batch=batch, log_every=100_000)
    return Trainer(method, load("mixture"), data, recipe, quiet=True)


def cost(work: Callable[[], object]) -> float:
    """Seconds of the CPU."""
    began = time.process_time()
    work()
    return time.process_time() - began


def fixed(run: Trainer, rounds: int, calls: int) -> tuple[float, float]:
    """Seconds of an iteration, and of its network calls alone; medians over the rounds."""
    run.prepare()
    run.iterate(0)
    with recorded(run) as log:
        run.iterate(1)
    step, whole, bare = 2, [], []
    for _ in range(rounds):
        steps, step = range(step, step + calls), step + calls
        whole.append(cost(lambda steps=steps: [run.iterate(s) for s in steps]) / calls)  # type: ignore[misc]
        bare.append(cost(lambda: [again(log) for _ in range(calls)]) / calls)
        for module in [*run.modules.values(), run.teacher.denoiser]:
            module.requires_grad_(False)  # as the loop leaves them: each turn asks for its own
    return statistics.median(whole), statistics.median(bare)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slug", nargs="*", default=[*SAME])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for slug in args.slug:
        whole, bare = fixed(trainer(slug), args.rounds, args.calls)
        rows.append(
            {
                "system": slug,
                "ms / iteration": f"{whole * 1e3:.2f}",
                "its networks": f"{bare * 1e3:.2f}",
                "fixed cost": f"{(whole - bare) * 1e3:.2f}",
            }
        )
    print(table(rows))


if __name__ == "__main__":
    main()
