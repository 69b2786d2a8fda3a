"""Tokens per second of a student and its teacher at each number of steps, and what the texts are worth.

    python -m benchmarks.tokens STUDENT [--teacher text] [--steps 64,32,16,8,4,2,1] [-n 100] [--rounds 5]
    [--threads 1]

All ways of sampling take turns in every round, so that a busy machine slows all of them alike; *times as
fast* is the median of the ratios, round by round, to the teacher's own number of steps. Both networks are of
one size, so that a way's speed follows from its number of steps. Perplexity under the world's n-gram model
and unigram entropy are those of all the rounds' samples together, beside those of held-out text.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import table
from stillhouse.api.runs import open_model
from stillhouse.model import Model
from stillhouse.worlds.base import World, get_world


def timed(model: Model, steps: int, n: int, seed: int) -> tuple[float, Tensor]:
    """Seconds that ``n`` texts in ``steps`` steps take, and their tokens."""
    began = time.perf_counter()
    tokens = model.sample(n, steps=steps, seed=seed)
    return time.perf_counter() - began, tokens


def measure(
    models: dict[str, Model], world: World, steps: list[int], n: int, rounds: int
) -> list[dict[str, Any]]:
    """One row for each of ``models`` (the teacher first) at each number of ``steps``, plain figures."""
    teacher = next(iter(models.values()))
    usual = next(iter(teacher.samplings))
    ways = [(who, count) for count in sorted({usual, *steps}, reverse=True) for who in models]
    took: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    made: dict[tuple[str, int], list[Tensor]] = {way: [] for way in ways}
    for who in models:
        timed(models[who], 1, n, 0)  # the first call pays for allocations that no later one pays
    for seed in range(rounds):
        for way in ways:
            seconds, tokens = timed(models[way[0]], way[1], n, seed)
            took[way].append(seconds)
            made[way].append(tokens)
    own = took[next(iter(models)), usual]
    rows = []
    for who, count in ways:
        worth = world.measure(torch.cat(made[who, count]))
        fast = statistics.median(a / b for a, b in zip(own, took[who, count], strict=True))
        speed = n * teacher.shape[0] / statistics.median(took[who, count])
        rows.append({"who": who, "steps": count, "times as fast": fast, "tokens/s": speed, **worth})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student")
    parser.add_argument("--teacher", default="text")
    parser.add_argument("--steps", default="64,32,16,8,4,2,1")
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = {"teacher": open_model(args.teacher), "student": open_model(args.student)}
    world = get_world("text")
    rows = measure(models, world, [int(s) for s in args.steps.split(",")], args.n, args.rounds)
    rows.append(
        {
            "who": "held-out text",
            "steps": "",
            "times as fast": "",
            "tokens/s": "",
            **world.floor(args.n * args.rounds),
        }
    )
    print(
        table(
            [
                {
                    k: f"{v:.3g}"
                    if isinstance(v, float) and v < 1000
                    else f"{v:.0f}"
                    if isinstance(v, float)
                    else v
                    for k, v in r.items()
                }
                for r in rows
            ]
        )
    )
    found = {(row["who"], row["steps"]): row for row in rows}
    for count in sorted({s for w, s in found if w == "student"}):
        mine, its = found["student", count], found["teacher", count]
        likelier, varied = mine["perplexity"] / its["perplexity"], mine["entropy"] / its["entropy"]
        print(f"{count} steps: perplexity {likelier:.3f} x, unigram entropy {varied:.3f} x the teacher's")


if __name__ == "__main__":
    main()
