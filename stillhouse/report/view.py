"""What a page shows of one run: its figures, its curves, and samples of student and teacher from the
same noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse import forms
from stillhouse.api.evaluate import labels_for
from stillhouse.api.evaluation import EVALUATION, SHOWN, read_evaluation
from stillhouse.api.held_out import NAME
from stillhouse.api.models import open_model, teacher_of_run
from stillhouse.api.run import CONFIG, recorded_entries
from stillhouse.api.walks import Walk, walks_of
from stillhouse.core.conditions import move
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, required
from stillhouse.forms.views import View, view_of
from stillhouse.model import Model
from stillhouse.report.kept import kept_samples, large_view
from stillhouse.samplers.tiled import restore
from stillhouse.train.data import conditions_of
from stillhouse.train.journal import read
from stillhouse.worlds.base import World, open_world

POINTS = 1000  # of real data
WHOLE = 128  # pixels of the side of a whole picture that is restored


@dataclass
class Strip:
    """Samples of one way of sampling; row ``i`` of every strip of a page started from the same noise."""

    who: str
    steps: int
    nfe: int
    default: bool
    samples: Tensor
    view: View | None = None  # as the world shows them
    whole: Tensor | None = None  # (1, C, H, 3 H): a whole photograph, degraded, restored and true

    @property
    def shown(self) -> View | None:
        """The view to show: the world's own, else what the numbers alone can show."""
        return view_of(self.samples) if self.view is None else self.view


@dataclass
class RunView:
    """One run on a page. ``name``: of the student; ``teacher``: of its teacher; ``rows``: the lines of
    ``metrics.jsonl``."""

    name: str
    teacher: str
    evaluation: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    labels: Tensor | None = None
    captions: list[str] = field(default_factory=list)
    real: Tensor | None = None


def draw_strips(
    model: Model, teacher: Model | None, world: World, evaluation: dict[str, Any], seed: int = 0
) -> tuple[list[Strip], Tensor | None]:
    """Samples of the ways that ``evaluation`` measured, all from the same noise, and their labels."""
    form = forms.of(model)
    labels = labels_for(model, world, form.labels_shown(model))
    count = form.shown if labels is None else len(labels)
    strips = []
    for row in evaluation["rows"]:
        owner = model if row["who"] == "student" else teacher
        if owner is None:
            continue
        walk = next((w for w in _walks(owner, row) if w.steps == row["steps"]), None)
        walk = required(
            walk,
            f"The {row['who']} that is shown can't take the {row['steps']} steps that were measured; "
            "evaluate the run again.",
        )
        device = owner.denoiser.device
        cond = move(conditions_of(world, labels, owner), device)
        samples = walk.draw(Draws(count, seed, "report", device=device), cond).cpu()
        view = world.display.view(samples, labels)
        whole = _whole(walk, world, seed) if row["default"] else None
        strips.append(Strip(row["who"], row["steps"], row["nfe"], row["default"], samples, view, whole))
    return strips, labels


def _whole(walk: Walk, world: World, seed: int) -> Tensor | None:
    """A whole photograph as ``walk`` restores it, tile by tile, between what was given and the truth."""
    if world.display.whole is None:
        return None
    degraded, true = world.display.whole(WHOLE)
    device = walk.model.denoiser.device
    draws = Draws(1, seed, "photograph", device=device)
    made = restore(
        walk.model.denoiser.eval(),
        walk.sampling,
        degraded.to(device),
        draws,
        least=walk.model.shape[-1],
        networks=walk.model.networks,
    ).cpu()
    return torch.cat([degraded, made, true], 3)


def _walks(owner: Model, row: dict[str, Any]) -> list[Walk]:
    return walks_of(owner, row["who"], [row["steps"]], row["solver"])


def make_view(
    name: str,
    model: Model,
    teacher: Model | None,
    world: World,
    evaluation: dict[str, Any],
    *,
    teacher_name: str = "teacher",
    config: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
) -> RunView:
    """A view of a student that is at hand, pictures included."""
    strips, labels = draw_strips(model, teacher, world, evaluation)
    dots = len(world.shape) == 1 and not model.denoiser.process.discrete
    real = world.sample_data(POINTS, Draws(POINTS, "report", "real"))[0] if dots else None
    captions = [world.captions[int(i)] for i in labels] if world.captions and labels is not None else []
    return RunView(name, teacher_name, evaluation, config or {}, rows or [], strips, labels, captions, real)


def view_of_folder(
    folder: str | Path,
    *,
    teacher: str | None = None,
    network: str | None = None,
    adapter: str | None = None,
) -> RunView:
    """The view of a run's folder: ``run.yaml``, ``metrics.jsonl``, ``model/model.safetensors`` and
    ``evaluation.json``.

    ``run.yaml`` names the ``method`` and the ``teacher``; a teacher that was only in memory is not drawn.

    Arguments:
        folder: of the run.
        teacher: code of the user's, ``FILE.py:NAME``, in the place of the run's teacher; None for that.
        network: code of the network that the folder holds the weights of; None for a network of ours.
        adapter: code that reads the run's pipeline; None for one of a known kind.

    Returns:
        The view.

    Raises:
        StillhouseError: if one of the files is missing or torn, or is of a network whose code was not named.
    """
    folder = Path(folder)
    require(folder.is_dir(), f"There is no run folder '{folder}'.")
    evaluation_file, config_file = folder / EVALUATION, folder / CONFIG
    require(config_file.is_file(), f"The folder '{folder}' holds no {CONFIG}; is it a run?")
    require(
        evaluation_file.is_file(),
        f"The run '{folder}' has not been evaluated; run: stillhouse evaluate {folder}",
    )
    evaluation, config = read_evaluation(evaluation_file), recorded_entries(config_file)
    world = None if evaluation["world"]["name"] == NAME else open_world(evaluation["world"])
    journal = folder / "metrics.jsonl"
    rows = read(journal) if journal.is_file() else []
    name, shown = _method_name(str(config.get("method") or folder.name)), _without_folders(config)
    source = config.get("teacher")
    if world is None:
        return _kept_view(folder, RunView(name, _teacher_name(source), evaluation, shown, rows))
    model = open_model(folder / "model", adapter, network)
    beside = teacher_of_run(config, world, teacher, network, adapter)
    return make_view(
        name,
        model,
        beside,
        world,
        evaluation,
        teacher_name=_teacher_name(source, world.name),
        config=shown,
        rows=rows,
    )


def _kept_view(folder: Path, view: RunView) -> RunView:
    """A view with what its evaluation, which names no world, has kept in the run's folder."""
    kept = kept_samples((folder / EVALUATION).with_suffix(SHOWN), view.evaluation)
    for number, row in enumerate(view.evaluation["rows"]):
        samples = kept[str(number)]
        way = row["who"], row["steps"], row["nfe"], row["default"]
        view.strips.append(Strip(*way, samples, large_view(samples)))
    world = view.evaluation["world"]
    prompts, used = world.get("prompts", []), world.get("conditions", 0)
    count = len(view.strips[0].samples)
    view.labels = torch.arange(count) % used if used and not prompts else None
    view.captions = [prompts[i % len(prompts)] for i in range(count)] if prompts else []
    view.real = kept.get("real")
    return view


def _method_name(method: str) -> str:
    """A method's name for display: the slug, or of a file of one's own the class, else the file's stem."""
    name = method.rpartition(":")[2] or method
    return Path(name).stem if name.endswith(".py") else name


def _without_folders(value: Any) -> Any:
    """What a page shows of a run's settings: of an absolute path the last name, so that no page that is
    passed on tells where somebody's files lie."""
    if isinstance(value, dict):
        return {key: _without_folders(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _teacher_name(source: Any, world: str = "teacher") -> str:
    """A teacher's name for display."""
    if not source:
        return f"{world} (in memory)"
    if str(source).partition(":")[0] == "exact":
        return f"exact {world}"
    path = Path(str(source))
    while path.stem == "model" and path.parent.name:  # the run's folder is a better name
        path = path.parent
    return path.stem
