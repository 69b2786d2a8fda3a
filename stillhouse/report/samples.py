"""Samples on a page: large panels of the default ways, and one strip a way, by kind of sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from stillhouse.forms.views import Clips, Dots, Pictures, Texts, View
from stillhouse.report.figures import TEACHER, calls, colour
from stillhouse.report.pictures import bounds_of, data_uri, moving_uri, sheet_uri
from stillhouse.report.plots import number, scatter
from stillhouse.report.view import RunView, Strip

Way = tuple[RunView, Strip, int]  # of the run with that number


def pictures(views: Sequence[RunView]) -> dict[str, Any] | None:
    """What stands for the samples of the runs in one world, all from the same noise.

    Arguments:
        views: of the runs; the first one's teacher stands for all.

    Returns:
        ``kind``: image, text or point; ``panels`` of the default ways; ``strips``, one a way; ``captions``.
        None for samples that can't be drawn.
    """
    ways = [
        (v, s, i)
        for i, v in enumerate(views)
        for s in sorted(v.strips, key=lambda s: -s.nfe)
        if s.who == "student" or i == 0
    ]
    # a stable sort: the teacher first, then the students in their order
    ways.sort(key=lambda way: way[1].who != "teacher")
    shown = [(way, view) for way in ways if (view := way[1].shown) is not None]
    if not shown:
        return None
    kind = type(shown[0][1])
    return DRAWN[kind](views, [(way, view) for way, view in shown if isinstance(view, kind)])


def _entry(way: Way) -> dict[str, Any]:
    view, strip, index = way
    row = next(r for r in view.evaluation["rows"] if r["who"] == strip.who and r["steps"] == strip.steps)
    student = strip.who == "student"
    return {
        "name": view.name if student else "Teacher",
        "student": student,
        "calls": calls(strip.nfe),
        "quality": number(row["metrics"][view.evaluation["metric"]]),
        "colour": colour(index) if student else TEACHER,
        "default": strip.default,
    }


def _page(
    kind: str, panels: list[dict[str, Any]], strips: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    return {"kind": kind, "panels": panels, "strips": strips, "sorted": False, "captions": [], **more}


def _texts(views: Sequence[RunView], shown: list[tuple[Way, Any]]) -> dict[str, Any]:
    return _page("text", [{**_entry(way), "texts": view.texts} for way, view in shown], [])


def _clips(views: Sequence[RunView], shown: list[tuple[Way, Any]]) -> dict[str, Any]:
    panels = [{**_entry(way), "image": moving_uri(view.clips)} for way, view in shown if way[1].default]
    strips = [{**_entry(way), "image": sheet_uri(view.clips[: view.few])} for way, view in shown]
    return _page("image", panels, strips)


def _images(views: Sequence[RunView], shown: list[tuple[Way, Any]]) -> dict[str, Any]:
    def panel(strip: Strip, view: Pictures) -> str:
        return data_uri(view.images, view.columns) if strip.whole is None else data_uri(strip.whole, 1)

    panels = [{**_entry(way), "image": panel(way[1], view)} for way, view in shown if way[1].default]
    strips = [{**_entry(way), "image": data_uri(view.images[: view.few], view.few)} for way, view in shown]
    first: Pictures = shown[0][1]
    if not first.by_class:
        return _page("image", panels, strips)
    captions = views[0].captions[: first.columns]
    labels: Tensor | None = views[0].labels
    turns = labels is not None and torch.equal(labels, torch.arange(len(labels)) % first.columns)
    return _page("image", panels, strips, sorted=turns and not captions, captions=captions)


def _dots(views: Sequence[RunView], shown: list[tuple[Way, Any]]) -> dict[str, Any] | None:
    real = views[0].real
    if real is None:
        return None
    frame = bounds_of(real)
    name = views[0].evaluation.get("reference_name", "Real data")
    drawn = Markup(scatter(real, None, frame, name))
    panels: list[dict[str, Any]] = [{"name": name, "svg": drawn, "colour": "", "default": True}]
    for way, view in shown:
        panel = _entry(way)
        svg = scatter(view.points, way[0].labels, frame, f"{panel['name']}, {panel['calls']}")
        panels.append({**panel, "svg": Markup(svg)})
    return _page("point", panels, [])


# how each view is drawn
DRAWN: dict[type[View], Callable[[Sequence[RunView], list[tuple[Way, Any]]], dict[str, Any] | None]] = {
    Texts: _texts,
    Clips: _clips,
    Pictures: _images,
    Dots: _dots,
}
