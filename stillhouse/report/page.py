"""The report: one HTML page that needs no network. Figures and pictures come from :mod:`.view`, charts from
:mod:`.charts`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from stillhouse.core.errors import require
from stillhouse.io.weights import atomic_write
from stillhouse.report.cards import best, summary
from stillhouse.report.charts import quality_charts, training_charts
from stillhouse.report.figures import metrics_of, rows_of, usual
from stillhouse.report.samples import pictures
from stillhouse.report.table import table
from stillhouse.report.view import RunView, view_of_folder


def part(views: Sequence[RunView]) -> dict[str, Any]:
    """Everything on the page about the runs in one world."""
    cards = [summary(v, i) for i, v in enumerate(views)]
    first = views[0].evaluation
    return {
        "world": first["world"]["name"],
        "floor": first.get("floor_phrase", "real data against real data"),
        "notes": first.get("notes", []),
        "teacher": views[0].teacher,
        "metric": metrics_of(list(views))[first["metric"]],
        "cards": cards,
        "best": cards[best(views)],
        "pictures": pictures(views),
        "quality": quality_charts(views),
        "training": [
            {**c, "charts": training_charts(v, c["colour"])} for v, c in zip(views, cards, strict=True)
        ],
        "table": table(views),
    }


# -- the page --------------------------------------------------------------------------------------
def render(views: Sequence[RunView], title: str = "") -> str:
    """The page as text: a part for each world, in which the first run's teacher stands for all."""
    require(len(views) > 0, "A report needs at least one run.")
    for view in views:
        require(
            usual(rows_of(view, "student")) is not None,
            f"The evaluation of '{view.name}' holds no figures of a student.",
        )
    worlds: dict[str, list[RunView]] = {}
    for view in views:
        worlds.setdefault(str(view.evaluation["world"]), []).append(view)
    environment = Environment(
        loader=PackageLoader("stillhouse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title or f"{views[0].teacher}, distilled",
        parts=[part(group) for group in worlds.values()],
        configs=[
            (v.name, yaml.safe_dump(v.config, sort_keys=False, allow_unicode=True)) for v in views if v.config
        ],
        versions=views[0].evaluation.get("versions", {}),
    )


def write_report(
    runs: RunView | str | Path | Sequence[RunView | str | Path], out: str | Path, title: str = ""
) -> Path:
    """Write the page of one run or of several to the file ``out``, whole or not at all, and return its path.

    ``runs``: views, or run folders (see :func:`stillhouse.report.view.view_of_folder`); those in one world
    are compared, the first one's teacher stands for all of them. Raises :class:`StillhouseError` for a folder
    that is no run.
    """
    given = [runs] if isinstance(runs, RunView | str | Path) else runs
    out = Path(out)
    atomic_write(
        out, render([r if isinstance(r, RunView) else view_of_folder(r) for r in given], title).encode()
    )
    return out
