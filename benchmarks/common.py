"""What the benchmarks share: a real run of each method on `mnist`-sized images, small enough to repeat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch

from stillhouse.core.process import Process
from stillhouse.core.schedules import process_from_config
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.systems.registry import find, list_systems
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

# options that make one iteration cheap to set up (banks) without changing what it does
SMALL: dict[str, dict[str, Any]] = {
    "dmd": {"pairs": 64, "pair_steps": 2},
    "slimflow": {"pairs": 64, "pair_steps": 2, "reflow_share": 0.02},
    "ctm": {"levels": 8},
}


IMAGES = {"mnist", "shapes"}  # worlds of images


def fresh_teacher(process: Process | str = "flow", kind: str = "velocity", **network: Any) -> Model:
    """An untrained network of `mnist`'s default size (or ``network``) as a teacher: time and memory don't
    depend on its weights."""
    world = get_world("mnist")
    denoiser = world.network(
        process_from_config(process) if isinstance(process, str) else process, kind=kind, **network
    )
    return load(denoiser, shape=world.shape, classes=world.classes)


def trainer(slug: str, batch: int, steps: int = 10_000, **network: Any) -> Trainer:
    """A trainer of the method ``slug`` on random images, its first iterations not yet made."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(256, 1, 32, 32, generator=generator) * 2 - 1
    method: Method = find(slug)(**SMALL.get(slug, {}))
    data = TensorData(x, torch.arange(256) % 10, 10)
    return Trainer(
        method, fresh_teacher(**network), data, Recipe(steps=steps, batch=batch, log_every=steps), quiet=True
    )


def trainers(chosen: list[str], batch: int) -> Iterator[tuple[str, Trainer]]:
    """Name and trainer of the systems named on the command line; or of all that train on images of this
    size, with a line for each that does not."""
    for slug in chosen:
        yield slug, trainer(slug, batch)
    for system in () if chosen else list_systems():
        if system.kind == "method" and IMAGES & set(system.worlds):
            yield system.slug, trainer(system.slug, batch)
        else:
            print(f"{system.slug}: left out. It is not trained on images.", file=sys.stderr)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(row[h]) for h in head) + " |" for row in rows])
