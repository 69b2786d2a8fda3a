"""Quality against training time: methods on `mnist` or `shapes`, from the shipped teacher, for the same
seconds.

    python -m benchmarks.quality [SLUG …] [--world mnist] [--seconds 120] [--samples 1000] [--seed 0]
    [--threads 1]

Each row is the student after a share of its budget: Fréchet distance on the features of our own classifier
(or reader), class accuracy (or prompt fidelity), diversity. The teacher at several numbers of steps and the
data's own floor stand below. Seconds are of CPU time, so that a busy machine does not matter, and count
iterations alone, not the measuring (nor the bank of teacher pairs, which is told apart).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.common import table
from stillhouse.api.runs import data_of
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.systems.registry import find
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import World, get_world

# what differs from a method's defaults on a world
DIGITS: dict[str, dict[str, Any]] = {
    "cm": {},
    "tbcm": {},
    "progressive": {"teacher_steps": 16},
    "ctm": {"segment": 4, "decay": 0.95},
    "dmd": {"guidance": 1.5, "pairs": 512, "pair_steps": 12, "fake_per_student": 4},
    "dmd2": {"guidance": 1.5, "fake_per_student": 4},
    "sid": {"first_time": 1.0},
    "slimflow": {"pairs": 1024, "pair_steps": 12, "size": 0.5},
}
SCENES: dict[str, dict[str, Any]] = {
    "guided_distillation": {"low_guidance": 1.0, "high_guidance": 3.0, "teacher_steps": 8, "steps": 4},
    "lora_distill": {"guidance": 2.0, "rank": 16, "targets": "all", "steps": 16},
    "lcm": {"low_guidance": 2.0, "high_guidance": 2.0, "levels": 16, "steps": 2},
    "icd": {"segments": 4, "levels": 16, "high_guidance": 3.0},
    "hyper_sd": {"segments": 4, "last_segments": 2, "levels": 16, "guidance": 2.0},
    "swiftbrush": {"first_time": 0.75, "guidance": 2.0, "rank": 16},
    "snoopi": {"first_time": 0.75, "high_guidance": 3.0, "rank": 16},
    "flash_diffusion": {"grid": 16, "low_guidance": 1.5, "high_guidance": 3.0, "steps": 2},
    "sdxl_lightning": {"ladder": (16, 4, 2), "guidance": 2.0},
    "dmd2": {"guidance": 2.0, "first_time": 0.75, "fake_per_student": 1, "gan_weight": 0.0},
}
OPTIONS = {"mnist": DIGITS, "shapes": SCENES}
METRICS = {
    "mnist": ("frechet", "accuracy", "precision", "recall"),
    "shapes": ("fidelity", "frechet", "recall", "high_band_ratio"),
}
SCENE_RATES: dict[str, dict[str, float]] = {
    # at their defaults these drift away within a hundred iterations; a fake must learn much faster than the
    # student
    "swiftbrush": {"student": 5e-5, "fake": 1e-3},
    "snoopi": {"student": 5e-5, "fake": 1e-3},
    "icd": {"student": 2e-4, "forward": 2e-4},
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
    method = find(slug)(**OPTIONS[world.name].get(slug, {}))
    many = world.name == "mnist"
    recipe = Recipe(
        steps=iterations,
        batch=64 if many else 32,
        seed=seed,
        lr=(RATES if many else SCENE_RATES).get(slug, {}),
        ema=0.99 if many else 0.95,
    )
    return Trainer(method, teacher, data_of(None, world, teacher, method, seed), recipe, quiet=True)


def affordable(slug: str, teacher: Model, world: World, seconds: float, seed: int) -> tuple[int, float]:
    """Iterations that fit ``seconds`` here, and the seconds that the bank takes."""
    trial = trainer(slug, teacher, world, 400, seed)
    began = time.process_time()
    trial.prepare()
    bank = time.process_time() - began
    trial.iterate(0)
    began = time.process_time()
    for step in range(1, 9):
        trial.iterate(step)
    return max(16, int(seconds / (time.process_time() - began) * 8)), bank


def measured(model: Model, world: World, samples: int, steps: int | None = None) -> dict[str, str]:
    """The figures of one model."""
    labels = world.balanced_labels(samples, world.shown_split)
    x = model.sample(samples, world.condition(labels), steps=steps, seed=1)
    found = world.measure(x, labels)
    return {
        "NFE": str(model.sampling(steps).nfe(model.denoiser, networks=model.networks)),
        **{k: f"{found[k]:.3g}" for k in METRICS[world.name]},
    }


def curve(slug: str, teacher: Model, world: World, args: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of one method."""
    iterations, bank = affordable(slug, teacher, world, args.seconds, args.seed)
    marks = {max(1, round(iterations * share)) - 1 for share in SHARES}
    rows: list[dict[str, str]] = []
    clock = {"began": time.process_time(), "spent": -bank}

    def look(run: Trainer, step: int) -> None:
        if step not in marks:
            return
        clock["spent"] += time.process_time() - clock["began"]
        told = {
            "system": slug,
            "iterations": str(step + 1),
            "seconds": f"{clock['spent']:.0f}",
            "bank seconds": f"{bank:.0f}",
        }
        rows.append(told | measured(run.product(), world, args.samples))
        print(rows[-1], flush=True)
        clock["began"] = time.process_time()

    run = trainer(slug, teacher, world, iterations, args.seed)
    run.on_step = look
    clock["began"] = time.process_time()
    run.fit()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slug", nargs="*")
    parser.add_argument("--world", choices=sorted(OPTIONS), default="mnist")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    world, teacher = get_world(args.world), load(args.world)
    empty = {"iterations": "", "seconds": "", "bank seconds": ""}
    rows = [row for slug in args.slug or OPTIONS[args.world] for row in curve(slug, teacher, world, args)]
    rows += [
        {"system": f"teacher, {k} steps", **empty, **measured(teacher, world, args.samples, k)}
        for k in (1, 2, 4, 8, 64 if args.world == "mnist" else 32)
    ]
    print(table(rows))
    print("floor (held-out data):", {k: round(v, 3) for k, v in world.floor(args.samples).items()})


if __name__ == "__main__":
    main()
