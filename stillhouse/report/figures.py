"""Figures as a page words them: metrics, calls, times, and which rows of an evaluation belong to whom."""

from __future__ import annotations

from typing import Any

from stillhouse.api.held_out import NAME
from stillhouse.metrics.metric import PAIRED_RMSE, Metric, declared, from_config
from stillhouse.metrics.scores import CLIP
from stillhouse.report.plots import number
from stillhouse.report.view import RunView
from stillhouse.worlds.base import open_world

TEACHER = "var(--ink-2)"


def metrics_of(views: list[RunView] | tuple[RunView, ...]) -> dict[str, Metric]:
    """The metrics of the runs in one world, by name, in the order of the world's own declaration.

    Arguments:
        views: of runs in one world; an evaluation of before carries no directions, its names are the world's.

    Returns:
        The metrics that were measured. Raises :class:`StillhouseError` for a figure without a direction.
    """
    evaluations = [v.evaluation for v in views]
    stated = [m for e in evaluations for m in from_config(e.get("metrics", {}))]
    place = evaluations[0]["world"]
    own = () if place["name"] == NAME else open_world(place).metrics
    known = [*stated, *own, PAIRED_RMSE, CLIP]
    rows = [r["metrics"] for e in evaluations for r in e["rows"]]
    measured = {name for row in [*rows, *(e["floor"] for e in evaluations)] for name in row}
    order = [m.name for m in known if m.name in measured]
    return declared([*order, *sorted(measured)], known, f"The evaluation in the world '{place['name']}'")


def calls(n: int) -> str:
    return f"{n} call" if n == 1 else f"{n} calls"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds * 1e9)} ns"


def rows_of(view: RunView, who: str) -> list[dict[str, Any]]:
    """The measured ways of ``student`` or ``teacher``, the most calls first."""
    return sorted((r for r in view.evaluation["rows"] if r["who"] == who), key=lambda r: -r["nfe"])


def usual(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((r for r in rows if r["default"]), None)


def colour(index: int) -> str:
    return f"var(--s{index % 6})"
