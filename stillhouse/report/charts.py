"""Charts of a page: quality against calls, and the curves of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from stillhouse.report.figures import TEACHER, colour, metrics_of, rows_of
from stillhouse.report.plots import Series, line_chart, smooth
from stillhouse.report.restoration import perception_distortion
from stillhouse.report.view import RunView

SHOWN_CURVE = 400  # points of a training curve that are drawn


def quality_charts(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """Quality against calls: the world's first metric, and up to three others."""
    first, known = views[0].evaluation, metrics_of(list(views))
    seen: dict[str, set[float]] = {}
    for row in (r for v in views for r in v.evaluation["rows"]):
        for key, value in row["metrics"].items():
            seen.setdefault(key, set()).add(value)
    _x = [
        k for k in known if len(seen.get(k, ())) > 1 and k != first["metric"]
    ]  # what is the same for all is left out
    names = [first["metric"], *_x][:4]
    charts = []
    for name in names:
        lines = [_against_calls("teacher", rows_of(views[0], "teacher"), name, TEACHER)]
        lines += [_against_calls(v.name, rows_of(v, "student"), name, colour(i)) for i, v in enumerate(views)]
        floor = first["floor"].get(name)
        kind = known[name]
        svg = line_chart(
            [s for s in lines if s.x],
            title=f"{kind.title} against network calls",
            x_label="network calls per sample",
            scale_x="log2",
            rule=floor,
            width=440,
            height=280,
        )
        charts.append({"title": kind.title, "arrow": kind.arrow, "note": kind.note, "svg": Markup(svg)})
    if {"psnr", "frechet"} <= set(first["floor"]) | set(first["rows"][0]["metrics"]):
        rows = [
            r for i, v in enumerate(views) for r in v.evaluation["rows"] if i == 0 or r["who"] == "student"
        ]
        rows += [{"who": "as given", "metrics": first["untouched"]}] if first.get("untouched") else []
        note = "near to the true photograph against natural as photographs are: good is low and to the right"
        plane = {"title": "Perception against distortion", "arrow": "", "note": note}
        charts.append({**plane, "svg": Markup(perception_distortion(rows, width=440, height=280))})
    return charts


def _against_calls(name: str, rows: list[dict[str, Any]], key: str, paint: str) -> Series:
    known = [r for r in rows if r["metrics"].get(key) is not None]
    return Series(name, [r["nfe"] for r in known], [r["metrics"][key] for r in known], paint)


def training_charts(view: RunView, paint: str) -> list[dict[str, Any]]:
    """Loss of each player, gradient norms, and the health of the samples, over the run."""
    names = dict.fromkeys(k for row in view.rows for k in row)
    losses = [k for k in names if k.endswith("/loss")]
    gradients = [k for k in names if k.endswith("/gradient")]
    charts = []
    for key in losses:
        charts.append(
            _training_chart(f"Loss of the {key.removesuffix('/loss')}", _noisy(view.rows, key, paint))
        )
    if gradients:
        pairs = [_noisy(view.rows, k, f"var(--c{i})") for i, k in enumerate(gradients)]
        legend = [(k.removesuffix("/gradient"), f"var(--c{i})") for i, k in enumerate(gradients)]
        charts.append(
            _training_chart(
                "Gradient norms", [line for pair in pairs for line in pair], legend if len(legend) > 1 else []
            )
        )
    if "health/diversity" in names:
        line = Series("diversity", *_curve(view.rows, "health/diversity"), paint, dots=False)
        charts.append(_training_chart("Diversity of the samples", [line]))
    return charts


def _noisy(rows: list[dict[str, Any]], key: str, paint: str) -> list[Series]:
    """A jumpy curve: every value, pale, and its running mean."""
    x, y = _curve(rows, key)
    return [
        Series(key, x, y, paint, dots=False, faint=True),
        Series(key, x, smooth(y, max(2, len(y) // 25)), paint, dots=False),
    ]


def _training_chart(
    title: str, lines: list[Series], legend: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    svg = line_chart(lines, title=title, x_label="iteration", width=350, height=240)
    return {"title": title, "svg": Markup(svg), "legend": list(legend)}


def _curve(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """The values of one key against the step, thinned to what a chart can show."""
    kept = [(r["step"], r[key]) for r in rows if isinstance(r.get(key), int | float)]
    kept = kept[:: max(1, len(kept) // SHOWN_CURVE)]
    return [float(s) for s, _ in kept], [float(v) for _, v in kept]
