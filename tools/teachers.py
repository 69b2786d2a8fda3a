"""Train the shipped teachers anew: ``python -m tools.teachers [NAME …]``.

``assets/teachers/NAME.yaml`` is the recipe, a run of ``stillhouse train``; ``NAME.safetensors`` beside it the
result, with recipe and measured quality in its header. A run that was cut short goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stillhouse.api.evaluate import labels_for
from stillhouse.api.options import read_yaml
from stillhouse.api.runs import train_teacher
from stillhouse.core.draws import seed_of
from stillhouse.core.errors import require, unknown
from stillhouse.io.weights import save_denoiser
from stillhouse.model import Model
from stillhouse.models.words import Words
from stillhouse.opening import load
from stillhouse.train.data import conditions_of
from stillhouse.worlds.base import World, get_world

PLACE = Path(__file__).parents[1] / "stillhouse" / "assets" / "teachers"
MEASURED = 1000  # samples
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}
QUICK = {"n": 200, "steps": 8}  # what a test can afford to measure again


def quality(
    model: Model, world: World, n: int = MEASURED, steps: int | None = None, split: str = "train"
) -> dict[str, Any]:
    """The world's metrics of ``n`` samples in ``steps`` steps (the model's own number), always from the same
    noise.

    ``split``: whose captions are asked for, in a world that has some.
    """
    labels = world.balanced_labels(n, split) if world.captions else labels_for(model, world, n)
    samples = model.sample(
        n, conditions_of(world, labels, model), steps=steps, seed=seed_of("quality") % 2**31
    )
    found = world.measure(samples, labels, generator=torch.Generator().manual_seed(seed_of("quality")))
    return {
        "n": n,
        "steps": steps or next(iter(model.samplings)),
        **{name: round(value, 5) for name, value in found.items()},
    }


def held_out(model: Model, world: World, n: int = MEASURED) -> dict[str, Any]:
    """Prompt fidelity under captions that no training sees; the other figures compare with renders of those
    that it does."""
    return {
        k: v
        for k, v in quality(model, world, n, split="test").items()
        if k in ("n", "steps") or k.endswith("fidelity")
    }


def make(
    name: str,
    place: Path = PLACE,
    work: Path = Path("runs/teachers"),
    *,
    n: int = MEASURED,
    quiet: bool = False,
) -> Path:
    """Train the teacher of one recipe in ``work/name``, measure it and put its file beside the recipe.

    No option of plain training has the name of a run's, so that both sections are keywords as they stand.
    """
    known = {file.stem: file for file in place.glob("*.yaml")}
    if name not in known:
        raise unknown("recipe of a teacher named", name, known)
    recipe = read_yaml(known[name])
    require("world" in recipe, f"The recipe '{known[name]}' names no world.")
    require(
        recipe.get("store", "float32") in PRECISIONS,
        f"A teacher is stored as float32 or float16, not '{recipe.get('store')}'.",
    )
    config = {"name": recipe["world"]} if isinstance(recipe["world"], str) else dict(recipe["world"])
    world = get_world(**config)
    given = {k: recipe[k] for k in ("network", "process", "kind", "options", "run") if k in recipe}
    out = work / name
    options = {**given.pop("options", {}), **given.pop("run", {})}
    model = train_teacher(world, **given, **options, out=out, resume=(out / "run.yaml").exists(), quiet=quiet)
    return ship(model, name, recipe, world, place, n)


def ship(model: Model, name: str, recipe: dict[str, Any], world: World, place: Path, n: int) -> Path:
    """Measure ``model`` and write it beside its recipe, whose ``store`` (float32, if it has none) is the
    precision of the file."""
    dtype = PRECISIONS[recipe.get("store", "float32")]
    model.denoiser.to(dtype).float()  # measured as it will be read
    header = {
        "shape": list(model.shape),
        "classes": model.classes,
        "samplings": {str(k): s.config() for k, s in model.samplings.items()},
        "free_steps": True,
        "world": world.name,
        **(
            {"text": model.text.describe(), "prompts": list(model.prompts)}
            if isinstance(model.text, Words)
            else {}
        ),
        **({"tokenizer": model.tokenizer.describe()} if model.tokenizer else {}),
        **({"cond_kind": model.cond_kind} if model.cond_kind else {}),
        "recipe": recipe,
        "quality": quality(model, world, n),
        **({"held_out": held_out(model, world, n)} if world.captions else {}),
        "quick": quality(model, world, QUICK["n"], QUICK["steps"]),
    }
    file = place / f"{name}.safetensors"
    save_denoiser(file, model.denoiser, header, dtype=dtype)
    return file


def main(names: Sequence[str]) -> None:
    """Make the teachers ``names``, or all that have a recipe."""
    for name in names or sorted(file.stem for file in PLACE.glob("*.yaml")):
        file = make(name)
        print(f"{file}: {file.stat().st_size / 2**20:.2f} MB, {json.dumps(load(file).info['quality'])}")


if __name__ == "__main__":
    main(sys.argv[1:])
