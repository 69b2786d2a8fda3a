"""The file of an evaluation in a run's folder: what it holds, and how it is written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.core.structure import Number
from stillhouse.io.checked import json_of
from stillhouse.io.weights import atomic_write

EVALUATION = "evaluation.json"  # in a run's folder
SHOWN = ".safetensors"  # of the samples beside it that a page shows, where no world draws them again
WHO = ("student", "teacher")
FIGURES = {"*": (Number, None)}
# what an evaluation's file holds
KEPT = {
    "world": {"name": str, "prompts?": [str], "conditions?": int},
    "n": int,
    "batch": int,
    "metric": str,
    "metrics?": {"*": {"*": str}},
    "rows": [
        {
            "who": str,
            "steps": int,
            "nfe": int,
            "guidance": float,
            "solver": (str, dict),
            "default": bool,
            "metrics": FIGURES,
            "seconds_per_sample": float,
            "memory?": int,
        }
    ],
    "floor": FIGURES,
    "untouched?": FIGURES,
    "parameters": {"student": int, "teacher?": int},
    "paired_rmse?": (Number, None),
    "speed_up": (float, None),
    "notes?": [str],
    **{f"{name}?": str for name in ("floor_name", "reference_name", "floor_phrase")},
    "versions?": {"*": str},
}


def read_evaluation(path: Path) -> dict[str, Any]:
    """What :func:`~stillhouse.api.evaluate.evaluate` kept.

    Arguments:
        path: of the JSON file.

    Returns:
        Plain data; raises :class:`StillhouseError` for a missing or torn file, an entry of another type, and
        figures that can't be.
    """
    found: dict[str, Any] = json_of(path, KEPT)
    rows, again = found["rows"], "evaluate the run again"
    require(
        any(row["default"] and row["who"] == "student" for row in rows),
        f"'{path}' holds no row of the student's default way; {again}.",
    )
    for row in rows:
        sound = min(row["nfe"], row["steps"]) >= 1 and row["seconds_per_sample"] > 0
        require(sound, f"'{path}' holds a row of no steps, calls or seconds; {again}.")
        require(
            row["who"] in WHO, f"'{path}' holds a row of '{row['who']}', not of {' or '.join(WHO)}; {again}."
        )
        require(
            found["metric"] in row["metrics"], f"'{path}' holds a row without '{found['metric']}'; {again}."
        )
    counts = found["parameters"]
    taught = any(row["who"] == "teacher" for row in rows)
    require(not taught or "teacher" in counts, f"'{path}' lacks the teacher's 'parameters'; {again}.")
    return found


def keep(found: Mapping[str, Any], out: str | Path | None, shown: Mapping[str, Tensor] | None = None) -> None:
    """Write an evaluation, whole or not at all.

    Arguments:
        found: what :func:`~stillhouse.api.evaluate.evaluate` returns.
        out: a JSON file, or a run's folder; None: nothing is written.
        shown: samples of its rows by their numbers, kept beside the file; None for none.
    """
    if out is None:
        return
    path = Path(out) / EVALUATION if Path(out).is_dir() else Path(out)
    if shown:
        atomic_write(path.with_suffix(SHOWN), save({k: v.contiguous() for k, v in shown.items()}))
    atomic_write(path, (json.dumps(found, indent=2) + "\n").encode())
