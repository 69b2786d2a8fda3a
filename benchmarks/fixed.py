"""What the training loop adds to an iteration, whatever its networks are: milliseconds of the CPU beside the
loop that one would write by hand.

    OMP_NUM_THREADS=1 python -m benchmarks.fixed [SLUG …] [--rounds 60] [--calls 10]

By hand: draw a batch, then loss, backward and the optimiser's step of each player in its turn. What is added
are seeds, guards, clipping, averages, schedules, the journal. On `mixture`, whose networks take next to
nothing. Both loops alternate, ``calls`` iterations each; the CPU's time is counted and not the clock's, so
that a busy machine only adds noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import table
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


def by_hand(run: Trainer, step: int) -> None:
    """Iteration ``step`` with nothing around its losses."""
    turns = tuple(run.method.turns(step))
    batch = run.feed.batch(step, 0, turns)
    for name in turns:
        player = run.players[name]
        player.learn(True)  # what is another's must not ask for a gradient
        run.method.loss(name, batch).backward()
        player.learn(False)
        player.optimiser.step()
        player.optimiser.zero_grad(set_to_none=True)


def fixed(run: Trainer, rounds: int, calls: int) -> tuple[float, float]:
    """Seconds of an iteration by hand, and what ours takes more; medians over the rounds."""
    run.prepare()
    for step in range(2):
        run.iterate(step)
    step, ours, hand = 2, [], []
    for _ in range(rounds):
        for made, work in ((ours, run.iterate), (hand, lambda s: by_hand(run, s))):
            steps, step = range(step, step + calls), step + calls
            made.append(cost(lambda steps=steps, work=work: [work(s) for s in steps]) / calls)  # type: ignore[misc]
    return statistics.median(hand), statistics.median(o - h for o, h in zip(ours, hand, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slug", nargs="*", default=[*SAME])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for slug in args.slug:
        hand, added = fixed(trainer(slug), args.rounds, args.calls)
        rows.append(
            {
                "system": slug,
                "by hand, ms / iteration": f"{hand * 1e3:.2f}",
                "added, ms": f"{added * 1e3:.2f}",
            }
        )
    print(table(rows))


if __name__ == "__main__":
    main()
