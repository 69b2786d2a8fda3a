"""``stillhouse evaluate RUN``: measure a model beside its teacher and real data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.commands.parser import Parser, add_network, add_world, numbers, own_code, run_entries
from stillhouse.core.errors import require

if TYPE_CHECKING:
    import torch

    from stillhouse.metrics.scores import Score


def evaluate(words: list[str]) -> int:
    """``stillhouse evaluate RUN --world W``"""
    parser = Parser("evaluate", "Measure a model beside its teacher and real data, from the same noise.")
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run's folder, a model's folder or file, or a shipped name"
    )
    add_world(parser, "world to measure in [the run's]")
    parser.add_argument("--teacher", help="beside which teacher, or FILE.py:FUNCTION [the run's]")
    add_network(parser, "the run's folder holds the weights of")
    parser.add_argument("-n", type=int, default=2000, help="samples per way of sampling [2000]")
    parser.add_argument("--seed", type=int, default=0, help="of the noise [0]")
    parser.add_argument(
        "--teacher-steps", metavar="K,K,…", help="numbers of steps to sample the teacher in [1,2,4,…,64]"
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
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--out", metavar="FILE", help="JSON file [RUN/evaluation.json, if it is a run's folder]"
    )
    given = parser.parse(words)

    from stillhouse.api.evaluate import EVALUATION
    from stillhouse.api.evaluate import evaluate as measure
    from stillhouse.api.resolve import named_model, teacher_of_run
    from stillhouse.io.weights import atomic_write
    from stillhouse.worlds.base import open_world

    network = getattr(given, "network", None) or own_code(given.teacher)
    model, entries = named_model(given.model, network), run_entries(given.model)
    world = open_world(getattr(given, "world", None) or entries.get("world") or model.world)
    teacher = teacher_of_run(entries, world, given.teacher, network)
    walks: dict[str, Any] = (
        {} if not given.teacher_steps else {"teacher_steps": numbers(given.teacher_steps, "--teacher-steps")}
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


def _scores(clip: str | None, names: Sequence[str], device: torch.device) -> dict[str, Score]:
    """CLIP's score, as ``clip``, and functions of the user's own by their names."""
    from stillhouse.metrics.scores import ClipScore, find_score

    scores: dict[str, Score] = {"clip": ClipScore(clip, device).score} if clip else {}
    for name in names:
        short = name.rpartition(":")[2]
        require(short not in scores, f"Two scores have the name '{short}'; rename one of the functions.")
        scores[short] = find_score(name)
    return scores
