"""``stillhouse evaluate RUN``: measure a model beside its teacher and real data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.commands.parser import (
    Parser,
    add_adapter,
    add_dtype,
    add_network,
    add_world,
    named_network,
    numbers,
    opening,
    run_entries,
)
from stillhouse.core.errors import require
from stillhouse.metrics.verdict import verdict

if TYPE_CHECKING:
    import torch

    from stillhouse.api.held_out import HeldOut
    from stillhouse.metrics.scores import Score
    from stillhouse.model import Model
    from stillhouse.worlds.base import World


def evaluate(words: list[str]) -> int:
    """``stillhouse evaluate RUN --world W``"""
    parser = Parser("evaluate", "Measure a model beside its teacher and real data, from the same noise.")
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run's folder, a model's folder or file, or a shipped name"
    )
    add_world(parser, "world to measure in [the run's]")
    parser.add_argument("--teacher", help="beside which teacher, or FILE.py:FUNCTION [the run's]")
    add_network(parser, "the run's folder holds the weights of")
    add_adapter(parser)
    add_dtype(parser, "the weights of both")
    parser.add_argument("-n", type=int, help="samples per way of sampling [2000; 200 without a world]")
    parser.add_argument("--seed", type=int, default=0, help="of the noise [0]")
    parser.add_argument(
        "--teacher-steps",
        metavar="K,K,…",
        help="numbers of steps to sample the teacher in [1,2,4,…,64; without a world its own and the "
        "student's]",
    )
    parser.add_argument(
        "--clip", metavar="DIR", help="score pictures under their captions by the CLIP in this folder"
    )
    parser.add_argument(
        "--score",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="score them by f(images, prompts) of a module or of ./file.py; may be given several times",
    )
    group = parser.add_argument_group("without a world")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        help="prompts that the model was not trained on, one a line [captions of --data, else those that the "
        "run held out, or the model's own]",
    )
    group.add_argument(
        "--data",
        metavar="DIR",
        help="pictures that it was not trained on, to compare with [the teacher's samples from other noise]",
    )
    group.add_argument(
        "--features",
        metavar="DIR",
        help="network whose features are compared: a folder of DINOv2, CLIP, ViT …, or the file of FID's "
        "Inception [the library's small one]",
    )
    group.add_argument(
        "--batch", type=int, default=0, help="samples made at once [8 of latents, 64 of others]"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--out", metavar="FILE", help="JSON file [RUN/evaluation.json, if it is a run's folder]"
    )
    given = parser.parse(words)

    from stillhouse.api.evaluate import evaluate as measure
    from stillhouse.api.evaluation import EVALUATION
    from stillhouse.api.held_out import HeldOut
    from stillhouse.api.models import named_model, teacher_of_run
    from stillhouse.worlds.base import open_world

    network = named_network(given)
    opened = opening(given)
    model, entries = named_model(given.model, network, **opened), run_entries(given.model)
    held: dict[str, Any] = {"features": given.features, "data": given.data, "batch": given.batch}
    named = getattr(given, "world", None)
    alone = bool(given.prompts or any(held.values()))
    require(
        not (named and alone),
        "A world brings its own conditions, data and features; leave --world away, or the options for models "
        "without one.",
    )
    place = None if alone else named or entries.get("world") or model.world
    world = open_world(place) if place else None
    teacher = _sized(teacher_of_run(entries, world, given.teacher, network, **opened), model)
    for one in (model, teacher):
        _to_device(one)
    if world is None:
        prompts, notes = _prompts(given.prompts, given.data, given.model, entries, model)
        measured: World | HeldOut = HeldOut(prompts, notes=notes, **held)
    else:
        measured = world
    scores = _scores(given.clip, given.score, model.denoiser.device)
    out = given.out or (Path(given.model) / EVALUATION if entries else None)
    result = measure(
        model,
        measured,
        teacher=teacher,
        n=given.n,
        seed=given.seed,
        scores=scores,
        show=not given.json,
        teacher_steps=numbers(given.teacher_steps, "--teacher-steps") if given.teacher_steps else None,
        out=out,
    )
    lines = [table(result), *([f"Kept in {out}"] if out else [])]
    if out and entries:
        lines.append(f"The page: stillhouse report {shlex.quote(str(given.model))}")
    print(json.dumps(result) if given.json else "\n".join(lines))
    return 0


def table(result: Mapping[str, Any]) -> str:
    """The rows of an evaluation as text, real data last."""
    metrics = list(dict.fromkeys(name for row in result["rows"] for name in row["metrics"]))
    head = ["", "steps", "calls", *metrics, "ms/sample"]
    lines = [
        [
            row["who"],
            str(row["steps"]),
            str(row["nfe"]),
            *(_figure(row["metrics"].get(m)) for m in metrics),
            _figure(1e3 * row["seconds_per_sample"]),
        ]
        for row in result["rows"]
    ]
    lines.append(
        [
            result.get("floor_name", "real data"),
            "",
            "",
            *(_figure(result["floor"].get(m)) for m in metrics),
            "",
        ]
    )
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *lines)
    ]
    text += verdict(result)
    text += result.get("notes", [])
    return "\n".join(text)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _sized(teacher: Model | None, student: Model) -> Model | None:
    """The teacher, for pictures of the student's size."""
    if teacher is None or teacher.pipeline is None or student.pipeline is None:
        return teacher
    if teacher.shape == student.shape or teacher.pipeline.frames:
        return teacher
    from stillhouse.opening import from_pipeline

    return from_pipeline(teacher.pipeline.at(*student.pipeline.size))


def _to_device(model: Model | None) -> None:
    """Move a model without a world's testbed to the GPU, if there is one."""
    import torch

    if model is None or not torch.cuda.is_available():
        return
    if model.pipeline is not None:
        model.pipeline.pipe.to("cuda")
    for module in (model.denoiser, *model.companions.values()):
        module.to("cuda")


def _prompts(
    file: str | None, data: str | None, source: str, entries: Mapping[str, Any], model: Model
) -> tuple[Sequence[str], Sequence[str]]:
    """Prompts to measure a model under, and a sentence about them where one is needed."""
    from stillhouse.api.held_out import prompts_of_data, prompts_of_run
    from stillhouse.io.data.prompts import read_prompts

    if file or model.text is None:
        return (read_prompts(file), ()) if file else ((), ())
    if data and (captions := prompts_of_data(data)):
        return captions, ["The prompts are the captions of the data."]
    found, held = prompts_of_run(source, entries.get("data"), model)
    if found and not held:
        return found, ["No prompt of the run was held out: the model was trained on these."]
    return found, ()


def _scores(clip: str | None, names: Sequence[str], device: torch.device) -> dict[str, Score]:
    """CLIP's score, as ``clip``, and functions of the user's own by their names."""
    from stillhouse.metrics.scores import ClipScore, find_score

    scores: dict[str, Score] = {"clip": ClipScore(clip, device).score} if clip else {}
    for name in names:
        short = name.rpartition(":")[2]
        require(short not in scores, f"Two scores have the name '{short}'; rename one of the functions.")
        scores[short] = find_score(name)
    return scores
