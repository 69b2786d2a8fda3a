"""Quality against training time: every method on `mnist`, from the shipped teacher, for the same seconds.

    python -m benchmarks.quality [SLUG …] [--seconds 120] [--samples 1000] [--seed 0] [--threads 1]

Each row is the student after a share of its budget: Fréchet distance on the features of our own classifier, class accuracy, diversity. The
teacher at several numbers of steps and the data's own floor stand below. Seconds count iterations alone, not the measuring (nor the bank of
teacher pairs, which is told apart).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.common import slugs, table
from stillhouse.model import Model, load
from stillhouse.systems import find
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import World, get_world

# what differs from a method's defaults on this world
OPTIONS: dict[str, dict[str, Any]] = {
    "progressive": {"teacher_steps": 16},
    "ctm": {"segment": 4, "decay": 0.95},
    "dmd": {"guidance": 1.5, "pairs": 512, "pair_steps": 12, "fake_per_student": 4},
    "dmd2": {"guidance": 1.5, "fake_per_student": 4},
    "sid": {"start": 1.0},
    "slimflow": {"pairs": 1024, "pair_steps": 12, "size": 0.5},
}
RATES: dict[str, dict[str, float]] = {
    "cm": {"student": 3e-4},
    "ctm": {"student": 3e-4},
    "tbcm": {"student": 3e-4},
    "dmd": {"student": 2e-4, "fake": 4e-4},
    "dmd2": {"student": 2e-4, "fake": 4e-4},
    "sid": {"student": 2e-4, "fake": 4e-4},
}
SHARES = (0.25, 0.5, 1.0)


def trainer(slug: str, teacher: Model, world: World, iterations: int, seed: int) -> Trainer:
    """A run of ``slug`` on the world's training data."""
    x, labels = world.data("train")
    recipe = Recipe(steps=iterations, batch=64, seed=seed, lr=RATES.get(slug, {}), ema=0.99)
    return Trainer(find(slug)(**OPTIONS.get(slug, {})), teacher, TensorData(x, labels, world.classes, seed), recipe, quiet=True)


def affordable(slug: str, teacher: Model, world: World, seconds: float, seed: int) -> tuple[int, float]:
    """Iterations that fit ``seconds`` here, and the seconds that the bank takes."""
    trial = trainer(slug, teacher, world, 400, seed)
    began = time.perf_counter()
    trial.prepare()
    bank = time.perf_counter() - began
    trial.iterate(0)
    began = time.perf_counter()
    for step in range(1, 9):
        trial.iterate(step)
    return max(16, int(seconds / (time.perf_counter() - began) * 8)), bank


def measured(model: Model, world: World, samples: int, steps: int | None = None) -> dict[str, str]:
    """The figures of one model."""
    labels = torch.arange(samples) % world.classes
    x = model.sample(samples, labels, steps=steps, seed=1)
    found = world.measure(x, labels)
    kept = ("frechet", "accuracy", "precision", "recall")
    return {"NFE": str(model.sampling(steps).nfe(model.denoiser)), **{k: f"{found[k]:.3g}" for k in kept}}


def curve(slug: str, teacher: Model, world: World, args: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of one method."""
    iterations, bank = affordable(slug, teacher, world, args.seconds, args.seed)
    marks = {max(1, round(iterations * share)) - 1 for share in SHARES}
    rows: list[dict[str, str]] = []
    clock = {"began": time.perf_counter(), "spent": -bank}

    def look(run: Trainer, step: int) -> None:
        if step not in marks:
            return
        clock["spent"] += time.perf_counter() - clock["began"]
        told = {"system": slug, "iterations": str(step + 1), "seconds": f"{clock['spent']:.0f}", "bank seconds": f"{bank:.0f}"}
        rows.append(told | measured(run.student(), world, args.samples))
        print(rows[-1], flush=True)
        clock["began"] = time.perf_counter()

    run = trainer(slug, teacher, world, iterations, args.seed)
    run.on_step = look
    clock["began"] = time.perf_counter()
    run.fit()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug", nargs="*")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world, teacher = get_world("mnist"), load("mnist")
    empty = {"iterations": "", "seconds": "", "bank seconds": ""}
    rows = [row for slug in slugs(args.slug) for row in curve(slug, teacher, world, args)]
    rows += [{"system": f"teacher, {k} steps", **empty, **measured(teacher, world, args.samples, k)} for k in (1, 2, 4, 8, 64)]
    print(table(rows))
    print("floor (held-out data):", {k: round(v, 3) for k, v in world.floor(args.samples).items()})


if __name__ == "__main__":
    main()
