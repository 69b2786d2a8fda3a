"""``stillhouse sample``, ``evaluate``, ``report`` and ``demo``: look at what was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.commands.parser import Parser, add_world
from stillhouse.commands.sampling_image import add_image, sample_image
from stillhouse.commands.sampling_policy import sample_policy
from stillhouse.commands.sampling_scene import add_scene, sample_scene
from stillhouse.commands.sampling_text import sample_text
from stillhouse.commands.sampling_video import add_frames, sample_video
from stillhouse.core.errors import StillhouseError, require

if TYPE_CHECKING:
    import torch

    from stillhouse.metrics.scores import Score
    from stillhouse.model import Model
    from stillhouse.worlds.base import World


def sample(words: list[str]) -> int:
    """``stillhouse sample RUN_OR_MODEL``"""
    parser = Parser(
        "sample",
        "Draw samples of a model: a picture for images, a film for clips, numbers for anything else.",
    )
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run's folder, a model's folder or file, or a shipped name"
    )
    parser.add_argument(
        "-n", type=int, help="how many [64; of a Diffusers model as many as there are prompts, or 4]"
    )
    parser.add_argument(
        "--labels",
        metavar="L,L,…",
        default="",
        help="class labels, repeated as often as needed [all in turn]",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to draw, or a text to go on with, each _ in it a token to be filled in; may be given "
        "several times [the model's own]",
    )
    parser.add_argument("--prompts", metavar="FILE", help="a file of prompts, one a line")
    parser.add_argument("--steps", type=int, help="steps per sample [the model's own]")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 for none [the model's own]")
    parser.add_argument("--seed", type=int, default=0, help="of the noise [0]")
    parser.add_argument("--columns", type=int, default=0, help="tiles per row of the picture [about square]")
    endings = ".png, .npy or .safetensors, .txt for texts [samples.png, or samples.npy; texts are printed]"
    parser.add_argument("--out", metavar="FILE", default="samples", help=endings)
    add_image(parser)
    add_frames(parser)
    add_scene(parser)
    given = parser.parse(words)

    from stillhouse.api.runs import open_model
    from stillhouse.io.data.prompts import read_prompts
    from stillhouse.io.images import save_samples

    model = open_model(given.model)
    if given.image:
        return sample_image(model, given)
    require(model.cond_kind != "image", "This model restores photographs; give it one: --image photo.jpg.")
    prompts = given.prompt + (read_prompts(given.prompts) if given.prompts else [])
    require(not (prompts and given.labels), "A sample is asked for by labels or by prompts, not by both.")
    if model.form == "text":
        return sample_text(model, given, prompts)
    if model.form == "video":
        return sample_video(model, given, prompts or _labels(given.labels, given.n or 6))
    require(
        given.frames is None and given.sound is None,
        "Only a model of clips makes so many frames or listens to a sound.",
    )
    if model.cond_kind == "camera":
        return sample_scene(model, given)
    if model.cond_kind == "observation":
        from stillhouse.worlds.base import open_world

        world = open_world(_entries(given.model).get("world") or model.world)
        return sample_policy(model, world, given, list(_numbers(given.labels, "--labels")))
    require(given.scene is None, "Only the student of a score-3d method holds objects to choose from.")
    few = len(prompts) or 4
    n = given.n if given.n is not None else few if model.pipeline else 64
    labels = _labels(given.labels, n)
    x = model.sample(n, prompts or labels, steps=given.steps, guidance=given.guidance, seed=given.seed)
    path = save_samples(given.out, x, labels, given.columns)
    sampling = model.sampling(given.steps, given.guidance)
    calls = sampling.nfe(model.denoiser, conditional=model.conditional)
    print(f"{path}: {n} samples in {len(sampling.times) - 1} step(s), {calls} network call(s) each")
    return 0


def evaluate(words: list[str]) -> int:
    """``stillhouse evaluate RUN --world W``"""
    parser = Parser("evaluate", "Measure a model beside its teacher and real data, from the same noise.")
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run's folder, a model's folder or file, or a shipped name"
    )
    add_world(parser, "world to measure in [the run's]")
    parser.add_argument("--teacher", help="beside which teacher [the run's]")
    parser.add_argument("-n", type=int, default=2000, help="samples per way of sampling [2000]")
    parser.add_argument("--seed", type=int, default=0, help="of the noise [0]")
    parser.add_argument("--teacher-steps", metavar="K,K,…", help="steps to walk the teacher in [1,2,4,…,64]")
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
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--out", metavar="FILE", help="JSON file [RUN/evaluation.json, if it is a run's folder]"
    )
    given = parser.parse(words)

    from stillhouse.api.evaluate import EVALUATION
    from stillhouse.api.evaluate import evaluate as measure
    from stillhouse.api.runs import open_model
    from stillhouse.io.weights import atomic_write
    from stillhouse.worlds.base import open_world

    model, entries = open_model(given.model), _entries(given.model)
    world = open_world(getattr(given, "world", None) or entries.get("world") or model.world)
    teacher = _teacher(given.teacher or entries.get("teacher"), world)
    walks: dict[str, Any] = (
        {} if not given.teacher_steps else {"teacher_steps": _numbers(given.teacher_steps, "--teacher-steps")}
    )
    scores = _scores(given.clip, given.score, model.denoiser.device)
    result = measure(
        model, world, teacher=teacher, n=given.n, seed=given.seed, scores=scores, show=not given.json, **walks
    )
    out = given.out or (Path(given.model) / EVALUATION if entries else None)
    if out:
        atomic_write(out, (json.dumps(result, indent=2) + "\n").encode())
    print(
        json.dumps(result) if given.json else "\n".join([table(result), *([f"Kept in {out}"] if out else [])])
    )
    return 0


def report(words: list[str]) -> int:
    """``stillhouse report RUN…``"""
    parser = Parser(
        "report",
        "Write the page of one run or of several, compared by world: one HTML file that needs no network.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="runs' folders")
    parser.add_argument("--out", metavar="FILE", help="where to [report.html in the first]")
    given = parser.parse(words)
    for run in given.runs:
        require(Path(run).is_dir(), f"There is no run's folder '{run}'.")

    from stillhouse.report.page import write_report

    print(write_report(given.runs, Path(given.out or Path(given.runs[0]) / "report.html")))
    return 0


def demo(words: list[str]) -> int:
    """``stillhouse demo``"""
    parser = Parser("demo", "Distil a real model in five minutes and show teacher and student side by side.")
    parser.add_argument("--teacher", metavar="PATH", help="a teacher of your own [the shipped mnist one]")
    parser.add_argument("--out", metavar="DIR", default="runs/demo", help="folder of the result [runs/demo]")
    given = parser.parse(words)

    from stillhouse.report.demo import main

    main(Path(given.out), teacher=given.teacher)
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
    lines.append(["real data", "", "", *(_figure(result["floor"].get(m)) for m in metrics), ""])
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *lines)
    ]
    if result.get("speed_up"):
        text.append(f"The student is {result['speed_up']:.1f} times as fast as the teacher's own way.")
    return "\n".join(text)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _teacher(source: str | None, world: World) -> Model | None:
    if not source:
        return None
    from stillhouse.api.runs import teacher_of

    return teacher_of(source, world)


def _scores(clip: str | None, names: Sequence[str], device: torch.device) -> dict[str, Score]:
    """CLIP's score, as ``clip``, and functions of the user's own by their names."""
    from stillhouse.metrics.scores import ClipScore, find_score

    scores: dict[str, Score] = {"clip": ClipScore(clip, device).score} if clip else {}
    for name in names:
        short = name.rpartition(":")[2]
        require(short not in scores, f"Two scores have the name '{short}'; rename one of the functions.")
        scores[short] = find_score(name)
    return scores


def _entries(source: str) -> dict[str, Any]:
    from stillhouse.api.options import read_yaml

    path = Path(source) / "run.yaml"
    return read_yaml(path) if path.is_file() else {}


def _numbers(text: str, flag: str) -> Sequence[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise StillhouseError(
            f"{flag} takes whole numbers with commas between them, not '{text}'."
        ) from error


def _labels(text: str, n: int) -> Any:
    """``n`` labels from a short list, in turn; None for an empty one."""
    import torch

    numbers = _numbers(text, "--labels")
    require(n >= 1, f"The number of samples must be 1 or more, not {n}.")
    return torch.tensor([numbers[i % len(numbers)] for i in range(n)]) if numbers else None
