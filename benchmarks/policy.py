"""What a policy costs and how it does: the shipped `control` teacher in 50 steps beside students of one call,
in one run.

    python -m benchmarks.policy [RUN …] [--episodes 500] [--rounds 15] [--threads 1]

RUN: folders of finished runs on the world `control`; without any, a student of each form is distilled first
(a few minutes). Latency is that of one chunk for one robot, measured in turns, teacher and students; its
ratio comes first. Success is that of the closed loop.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.common import table
from stillhouse.api.runs import distill, open_model
from stillhouse.metrics.control import HEAD, success
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.worlds.base import get_world


def latencies(models: dict[str, Model], rounds: int) -> dict[str, float]:
    """Median seconds of one chunk of each, asked in turns."""
    seen = get_world("control").condition(torch.tensor([0]))
    spent: dict[str, list[float]] = {name: [] for name in models}
    for i in range(rounds + 2):
        for name, model in models.items():
            began = time.perf_counter()
            model.sample(1, seen, seed=i)
            spent[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[2:]) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="*")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    teacher, world = load("control"), get_world("control")
    models = {"teacher": teacher, **{name: open_model(name) for name in args.run}}
    for form in () if args.run else ("stochastic", "deterministic"):
        models[f"onedp, {form}"] = distill(
            teacher, "onedp", world=world, form=form, iterations=args.iterations, quiet=True
        )
    seconds, rows = latencies(models, args.rounds), list[dict[str, Any]]()
    for name, model in models.items():
        done, steps = success(model, world, args.episodes), len(model.sampling().times) - 1
        each = 1e3 * seconds[name]
        rows.append(
            {
                "": name,
                "times as fast": f"{seconds['teacher'] / seconds[name]:.1f}",
                "steps": steps,
                "ms / chunk": f"{each:.2f}",
                f"ms / action ({HEAD} of a chunk)": f"{each / HEAD:.2f}",
                "success": f"{done['success']:.3f}",
                "left way": f"{done['left']:.2f}",
                "length": f"{done['steps']:.1f}",
            }
        )
    once = success(teacher, world, args.episodes, steps=1)
    print(table(rows))
    print(f"The teacher's own one step: success {once['success']:.3f}.")


if __name__ == "__main__":
    main()
