"""A student's card: what it takes and what it costs, beside its teacher; and the student of the headline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stillhouse.metrics.verdict import losses
from stillhouse.report.figures import calls, colour, duration, metrics_of, rows_of, usual
from stillhouse.report.plots import number
from stillhouse.report.view import RunView


def summary(view: RunView, index: int) -> dict[str, Any]:
    """The card of one student: what it takes and what it costs, beside its teacher."""
    student, teacher = usual(rows_of(view, "student")), usual(rows_of(view, "teacher"))
    assert student is not None
    key = view.evaluation["metric"]
    quality = student["metrics"][key]
    count = view.evaluation["parameters"]
    weights = count["student"]
    seconds = [r["seconds"] for r in view.rows if "seconds" in r]
    trained = sum(seconds) / len(seconds) * (max(r["step"] for r in view.rows) + 1) if seconds else None
    card: dict[str, Any] = {
        "name": view.name,
        "colour": colour(index),
        "calls": calls(student["nfe"]),
        "nfe": student["nfe"],
        "quality": number(quality),
        "weights": f"{weights:,}".replace(",", "\u202f") if weights else "closed form",
        "sample": duration(student["seconds_per_sample"]),
        "trained": duration(trained) if trained else None,
        "floor": number(view.evaluation["floor"].get(key)),
        "before": None,
        "lost": [
            f"{m.title} {number(mine)} (teacher {number(its)})"
            for m, mine, its in losses(view.evaluation, list(metrics_of([view]).values()))
        ],
    }
    if teacher:
        # the teacher where it takes as few calls as the student, or as near to that as it comes
        few = min(
            rows_of(view, "teacher"),
            key=lambda r: (r["nfe"] > student["nfe"], abs(r["nfe"] - student["nfe"])),
        )
        card["before"] = {
            "calls": calls(teacher["nfe"]),
            "nfe": teacher["nfe"],
            "quality": number(teacher["metrics"][key]),
            "sample": duration(teacher["seconds_per_sample"]),
            "speed_up": number(view.evaluation["speed_up"], 2),
            "few": {"calls": calls(few["nfe"]), "quality": number(few["metrics"][key])},
            "share": number(100 * weights / count["teacher"], 2)
            if weights and count.get("teacher", 0) > weights
            else None,
        }
    return card


def best(views: Sequence[RunView]) -> int:
    """The student of the headline: the fewest calls, among those the best quality."""

    known = metrics_of(list(views))

    def rank(view: RunView) -> tuple[int, float]:
        row = usual(rows_of(view, "student"))
        assert row is not None
        value, kind = row["metrics"][view.evaluation["metric"]], known[view.evaluation["metric"]]
        return row["nfe"], math.inf if value is None else -value if kind.better == "high" else value

    return min(range(len(views)), key=lambda i: rank(views[i]))
