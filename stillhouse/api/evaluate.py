"""What a student is worth: its quality, its calls and its time beside its teacher's, all from the same
noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stillhouse.api.compare import SAMPLES, compare
from stillhouse.api.evaluation import keep
from stillhouse.api.held_out import HeldOut
from stillhouse.api.versions import plain, versions
from stillhouse.api.walks import endpoints, fill, walks_of
from stillhouse.core.conditions import balanced_labels, move
from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import require
from stillhouse.core.process import Process
from stillhouse.core.structure import checked
from stillhouse.metrics.distances import paired_rmse
from stillhouse.metrics.metric import PAIRED_RMSE, declared
from stillhouse.metrics.scores import Score, mean_scores, metric_of
from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.data import conditions_of
from stillhouse.worlds.base import World

STEPS = (1, 2, 4, 8, 16, 32, 64)
BATCH = 250  # samples made at once

# the types of what evaluate is given
GIVEN = {
    "model": Model,
    "world": (World, HeldOut, None),
    "teacher": (Model, None),
    "n": (int, None),
    "seed": int,
    "teacher_steps": ([int], None),
    "teacher_solver": (str, dict, None),
    "scores": (Mapping, None),
    "show": bool,
    "out": (str, Path, None),
}


def exact_teacher(
    world: World, process: Process, steps: int = 64, solver: str | dict[str, Any] = "heun"
) -> Model:
    """The closed-form denoiser of a world as a many-step model.

    Arguments:
        world: whose data it is exact for.
        process: how data becomes noise.
        steps: the default number of steps.
        solver: name or configuration of the default solver.

    Returns:
        The model.
    """
    walk = Sampling.steps(process, steps, solver=solver)
    return Model(
        world.exact(process),
        world.shape,
        world.classes,
        {steps: walk},
        free_steps=True,
        world=world.name,
        cond_kind=world.cond_kind,
        tokenizer=world.tokenizer,
    )


def labels_for(model: Model, world: World, n: int) -> Tensor | None:
    """The world's labels spread evenly over those that a model takes.

    Arguments:
        model: whose samples are to be drawn.
        world: whose labels they are.
        n: number of labels.

    Returns:
        Labels, int64 (n,); None for a model without conditions.
    """
    return (
        balanced_labels(n, model.classes)
        if model.classes or not model.conditional
        else world.balanced_labels(n, world.shown_split)
    )


def evaluate(
    model: Model,
    world: World | HeldOut | None = None,
    *,
    teacher: Model | None = None,
    n: int | None = None,
    seed: int = 0,
    teacher_steps: Sequence[int] | None = None,
    teacher_solver: str | dict[str, Any] | None = None,
    scores: Mapping[str, Score] | None = None,
    show: bool = False,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Measure samples of every way of sampling the student and its teacher.

    All ways take turns, batch by batch, so that a busy machine slows all of them alike; figures of time are
    medians. Everything but the times follows from ``seed``.

    Arguments:
        model: the student.
        world: whose metrics are measured; a :class:`HeldOut` of conditions, data and features, or None for
            the model's own prompts or classes, where there is no world.
        teacher: what it is compared with; None for the student alone.
        n: number of samples of each way, 8 or more; None for 2000 in a world and 200 without one.
        seed: of all random draws.
        teacher_steps: numbers of steps of a many-step model, the teacher's or the student's; None for
            :data:`STEPS` in a world, and for the student's own without one.
        teacher_solver: takes the place of the teacher's own solver in all its rows; None for that.
        scores: functions ``f(images, prompts) -> (B,)`` by name (see :mod:`stillhouse.metrics.scores`), under
            captions or prompts; the mean of each joins ``metrics`` and ``floor`` under its name.
        show: progress bars.
        out: file that the figures are kept in as JSON, or a run's folder for its own; without a world some
            samples of each way are kept beside it, as safetensors. None: nothing is written.

    Returns:
        Plain data, ready for JSON. ``rows``: one dict per way: ``who`` (student or teacher), ``steps``,
        ``nfe`` (network calls per sample), ``guidance``, ``solver``, ``default`` (the model's own way),
        ``metrics`` (the world's, and ``paired_rmse``) and ``seconds_per_sample``. ``floor``: the metrics of
        real data; ``untouched``: of the degraded inputs themselves, in a world of restoration. ``metric``:
        the name of the world's first metric; ``metrics``: title, direction and unit of each. ``parameters``:
        weights of each model; 0 for a closed form. ``paired_rmse``: of the student's default way to the
        teacher's endpoint from the same noise: a tight integration for a closed form, the teacher's finest
        walk for a network. ``speed_up``: the teacher's default time over the student's; None without a
        teacher. ``versions``: of the packages. Without a world: no ``paired_rmse`` of the whole but the
        distances of each row, by number, in samples and latents; ``notes``: sentences that belong to the
        figures; ``floor_name``: what ``floor`` is of; ``memory`` of a row: bytes that a GPU held at most.

    Raises:
        StillhouseError: if the models don't fit the world, or a sample is not finite.
    """
    checked(locals(), GIVEN, "evaluate can't run")
    how: dict[str, Any] = {
        "teacher": teacher,
        "seed": seed,
        "teacher_solver": teacher_solver,
        "scores": scores,
        "show": show,
    }
    if world is None or isinstance(world, HeldOut):
        found, shown = compare(
            model, world or HeldOut(), n=SAMPLES if n is None else n, teacher_steps=teacher_steps, **how
        )
        keep(found, out, shown)
        return found
    found = _in_world(
        model,
        world,
        n=2000 if n is None else n,
        teacher_steps=STEPS if teacher_steps is None else teacher_steps,
        **how,
    )
    keep(found, out)
    return found


def _in_world(
    model: Model,
    world: World,
    *,
    teacher: Model | None,
    n: int,
    seed: int,
    teacher_steps: Sequence[int],
    teacher_solver: str | dict[str, Any] | None,
    scores: Mapping[str, Score] | None,
    show: bool,
) -> dict[str, Any]:
    """:func:`evaluate` by the metrics of a world."""
    require(n >= 8, f"An evaluation needs at least 8 samples, not {n}.")
    for who, one in (("student", model), ("teacher", teacher)):
        made = _made(one, world) if one else None
        require(
            made in (None, tuple(world.shape)),
            f"World '{world.name}' holds samples of shape {tuple(world.shape)}, the {who} makes {made}.",
        )
        require(
            not one or one.classes <= world.classes,
            f"World '{world.name}' has {world.classes} classes, the {who} takes {one.classes if one else 0}.",
        )
    same = teacher is None or teacher.classes == model.classes
    require(
        same,
        f"The student takes {model.classes} classes, the teacher {teacher.classes if teacher else 0}; they "
        "can't be compared.",
    )
    walks = walks_of(model, "student", teacher_steps)
    if teacher:
        require(
            all(s >= 1 for s in teacher_steps),
            f"The teacher's steps are 1 or more, not {list(teacher_steps)}.",
        )
        walks += walks_of(teacher, "teacher", teacher_steps, teacher_solver)
    batch = min(BATCH, math.ceil(n / 4))  # at least four turns to take a median of
    labels = labels_for(model, world, n)
    worth = {}
    known = [*world.metrics, PAIRED_RMSE, *(metric_of(name, score) for name, score in (scores or {}).items())]
    if scores:  # of real data first: a score that fails does so before any walk
        scorable = bool(world.captions) and model.text is not None and labels is not None
        require(
            scorable,
            f"A score compares pictures with prompts: '{world.name}' has no captions, or the student takes "
            "no prompts.",
        )
        real, shown = world.sample_data(n, Draws(n, "floor", seed))
        worth = mean_scores(scores, real, _prompts(world, shown))
    fill(walks, world, n, batch, labels, seed, show)

    ends = endpoints(walks, world, teacher, n, batch, labels, seed)
    rows = []
    for walk in tqdm(walks, desc="measure", disable=not show, unit="way", leave=False):
        samples = torch.cat(walk.samples)
        metrics = world.measure(
            samples, labels, generator=torch.Generator().manual_seed(seed_of("evaluate", seed))
        )
        if ends is not None and walk.samples is not ends:
            pairs = torch.cat(ends)
            metrics["paired_rmse"] = paired_rmse(samples[: len(pairs)], pairs)
        if scores and labels is not None:
            taken = sorted(set(scores) & set(metrics))
            require(
                not taken, f"There is a metric '{(taken or [''])[0]}' already; give the score another name."
            )
            metrics |= mean_scores(scores, samples, _prompts(world, labels))
        rows.append(walk.row(metrics))
    mine = next(w for w in walks if w.who == "student" and w.default)
    its = next((w for w in walks if w.who == "teacher" and w.default), None)
    identity_metrics, floor = world.identity_metrics(n), {**world.floor(n, seed), **worth}
    measured = [name for found in (*(row["metrics"] for row in rows), floor) for name in found]
    metrics_known = declared(measured, known, f"World '{world.name}'")
    return {
        "world": getattr(world, "config", {"name": world.name}),
        "n": n,
        "seed": seed,
        "batch": batch,
        "metric": next(iter(rows[0]["metrics"])),
        "metrics": {name: metric.config() for name, metric in metrics_known.items()},
        "rows": rows,
        **({"untouched": {k: plain(v) for k, v in identity_metrics.items()}} if identity_metrics else {}),
        "floor": {k: plain(v) for k, v in floor.items()},
        "parameters": {"student": model.parameters, **({"teacher": teacher.parameters} if teacher else {})},
        "paired_rmse": rows[walks.index(mine)]["metrics"].get("paired_rmse"),
        "speed_up": statistics.median(a / b for a, b in zip(its.seconds, mine.seconds, strict=True))
        if its
        else None,
        "versions": versions(),
    }


def _made(model: Model, world: World) -> tuple[int, ...]:
    """The shape of what ``model`` makes of one state."""
    device = model.denoiser.device
    cond = move(conditions_of(world, labels_for(model, world, 1), model), device)
    return tuple(
        model.pictures(
            model.denoiser.process.start(Draws(1, "shape", device=device), model.shape), cond
        ).shape[1:]
    )


def _prompts(world: World, labels: Tensor) -> list[str]:
    return [world.captions[label] for label in labels.tolist()]
