"""The report: one HTML page that needs no network. Figures and pictures come from :mod:`.view`, charts from
:mod:`.plots`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stillhouse.core.errors import require
from stillhouse.io.weights import atomic_write
from stillhouse.report.pictures import bounds_of, data_uri, is_image, is_point, moving_uri, sheet_uri
from stillhouse.report.plots import Series, line_chart, number, scatter, smooth
from stillhouse.report.restoration import perception_distortion
from stillhouse.report.view import RunView, Strip, view_of_folder

COLUMNS = 10  # images beside each other
TEACHER = "var(--ink-2)"
SHOWN_CURVE = 400  # points of a training curve that are drawn


class Metric(NamedTuple):
    """How a figure is presented. ``better``: low, high, or one (the nearer to 1)."""

    title: str
    better: str
    note: str

    @property
    def arrow(self) -> str:
        return {"low": "↓", "high": "↑", "one": "→ 1"}[self.better]


METRICS = {
    "fidelity": Metric(
        "Prompt fidelity", "high", "share of pictures in which the reader finds all that the caption says"
    ),
    "clip": Metric("CLIP score", "high", "100 times the cosine between a picture and its caption"),
    "frechet": Metric("Fréchet distance", "low", "between features of samples and of real data"),
    "swd": Metric("Sliced Wasserstein", "low", "distance to real data along random directions"),
    "accuracy": Metric("Class accuracy", "high", "share of samples that show the class asked for"),
    "coverage": Metric("Coverage", "high", "share of real data with a sample nearby"),
    "recall": Metric("Recall", "high", "share of real data within reach of the samples"),
    "precision": Metric("Precision", "high", "share of samples within reach of real data"),
    "density": Metric("Density", "high", "real neighbours of a sample, 1 for real data"),
    "off_mode": Metric("Off-mode share", "low", "share of samples far from every mode"),
    "modes": Metric("Modes held", "high", "modes with at least a quarter of their weight"),
    "paired_rmse": Metric("Paired RMSE", "low", "to the teacher's endpoint from the same noise"),
    "high_band_ratio": Metric("High-band energy", "one", "energy of fine detail over that of real data"),
    "mmd": Metric("MMD²", "low", "kernel distance to real data"),
    "perplexity": Metric("Perplexity", "low", "of samples, under an n-gram model of the training text"),
    "nll": Metric("Negative log-likelihood", "low", "of samples under the true chain, nats a token"),
    "entropy": Metric("Entropy", "high", "of single tokens; falls when texts repeat themselves"),
    "bigram_entropy": Metric("Bigram entropy", "high", "of pairs of tokens"),
    "distinct": Metric("Distinct 8-grams", "high", "share of runs of eight tokens that occur once"),
    "psnr": Metric("PSNR", "high", "dB, to the true photograph"),
    "ssim": Metric("SSIM", "high", "structural similarity to the true photograph"),
    "lpips": Metric("LPIPS", "low", "perceptual distance to the true photograph"),
    "frame_distance": Metric("Frame distance", "low", "of a frame to the nearest true one"),
    "clip_distance": Metric("Clip distance", "low", "of a clip to the nearest true one"),
    "motion_fidelity": Metric("Motion fidelity", "high", "share of clips that move as they were panel"),
    "sync": Metric("Sync", "high", "how well the picture follows the sound"),
    "flicker": Metric("Flicker", "one", "jerks from frame to frame over those of true clips"),
    "change": Metric("Change", "one", "motion from frame to frame over that of true clips"),
    "success": Metric("Success", "high", "share of episodes that end well"),
    "valid": Metric("Valid", "high", "share of actions that an expert might take"),
    "left": Metric("Left way", "one", "share that takes the left of two ways"),
    "object_psnr": Metric("Object PSNR", "high", "dB, to the nearest object seen from all cameras"),
    "view_psnr": Metric("View PSNR", "high", "dB, of each view to the nearest true one"),
    "agree": Metric("Agreement", "high", "share of views that show the same object"),
}


def metric(name: str) -> Metric:
    return METRICS.get(name) or Metric(name.replace("_", " ").capitalize(), "low", "")


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


# -- the parts of the page -------------------------------------------------------------------------
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

    def rank(view: RunView) -> tuple[int, float]:
        row = usual(rows_of(view, "student"))
        assert row is not None
        value, kind = row["metrics"][view.evaluation["metric"]], metric(view.evaluation["metric"])
        return row["nfe"], math.inf if value is None else -value if kind.better == "high" else value

    return min(range(len(views)), key=lambda i: rank(views[i]))


def pictures(views: Sequence[RunView]) -> dict[str, Any] | None:
    """Large panels of the default ways, and one strip a way, all from the same noise. None for samples that
    can't be drawn."""
    ways = [
        (v, s, i)
        for i, v in enumerate(views)
        for s in sorted(v.strips, key=lambda s: -s.nfe)
        if s.who == "student" or i == 0
    ]
    ways.sort(
        key=lambda w: w[1].who != "teacher"
    )  # a stable sort: the teacher first, then the students in their order
    if not ways:
        return None
    first, shape = ways[0][1], tuple(ways[0][1].samples.shape[1:])
    key = views[0].evaluation["metric"]

    def entry(view: RunView, strip: Strip, index: int) -> dict[str, Any]:
        row = next(r for r in view.evaluation["rows"] if r["who"] == strip.who and r["steps"] == strip.steps)
        return {
            "name": view.name if strip.who == "student" else "Teacher",
            "student": strip.who == "student",
            "calls": calls(strip.nfe),
            "quality": number(row["metrics"][key]),
            "colour": colour(index) if strip.who == "student" else TEACHER,
            "default": strip.default,
        }

    if first.texts is not None:
        panels = [{**entry(*w), "texts": w[1].texts} for w in ways]
        return {"kind": "text", "panels": panels, "strips": [], "sorted": False, "captions": []}
    moving = [(w, w[1].frames) for w in ways if w[1].frames is not None]
    if moving:
        panels = [{**entry(*w), "image": moving_uri(frames)} for w, frames in moving if w[1].default]
        strips = [{**entry(*w), "image": sheet_uri(frames[:3])} for w, frames in moving]
        return {"kind": "image", "panels": panels, "strips": strips, "sorted": False, "captions": []}
    drawn = [(w, w[1].images) for w in ways if w[1].images is not None]
    if drawn:
        shown = [
            (w, data_uri(images, 2) if w[1].whole is None else data_uri(w[1].whole, 1))
            for w, images in drawn
            if w[1].default
        ]
        panels = [{**entry(*w), "image": image} for w, image in shown]
        strips = [{**entry(*w), "image": data_uri(images[:3], 3)} for w, images in drawn]
        return {"kind": "image", "panels": panels, "strips": strips, "sorted": False, "captions": []}
    if is_image(shape):
        panels = [{**entry(*w), "image": data_uri(w[1].samples, COLUMNS)} for w in ways if w[1].default]
        strips = [{**entry(*w), "image": data_uri(w[1].samples[:COLUMNS], COLUMNS)} for w in ways]
        labels = views[0].labels
        by_class = labels is not None and torch.equal(labels, torch.arange(len(labels)) % COLUMNS)
        captions = views[0].captions[:COLUMNS]
        return {
            "kind": "image",
            "panels": panels,
            "strips": strips,
            "sorted": by_class and not captions,
            "captions": captions,
        }
    if is_point(shape) and views[0].real is not None:
        frame = bounds_of(views[0].real)
        panels = [
            {
                "name": "Real data",
                "svg": Markup(scatter(views[0].real, None, frame, "Real data")),
                "colour": "",
                "default": True,
            }
        ]
        for view, strip, index in ways:
            panel = entry(view, strip, index)
            svg = scatter(strip.samples, view.labels, frame, f"{panel['name']}, {panel['calls']}")
            panels.append({**panel, "svg": Markup(svg)})
        return {"kind": "point", "panels": panels, "strips": [], "sorted": False, "captions": []}
    return None


def quality_charts(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """Quality against calls: the world's first metric, and up to three that tell the most beside it."""
    first = views[0].evaluation
    seen: dict[str, set[float]] = {}
    for row in (r for v in views for r in v.evaluation["rows"]):
        for key, value in row["metrics"].items():
            seen.setdefault(key, set()).add(value)
    _x = [
        k for k in METRICS if len(seen.get(k, ())) > 1 and k != first["metric"]
    ]  # what is the same for all tells nothing
    names = [first["metric"], *_x][:4]
    charts = []
    for name in names:
        lines = [_against_calls("teacher", rows_of(views[0], "teacher"), name, TEACHER)]
        lines += [_against_calls(v.name, rows_of(v, "student"), name, colour(i)) for i, v in enumerate(views)]
        floor = first["floor"].get(name)
        kind = metric(name)
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


def table(views: Sequence[RunView]) -> dict[str, Any]:
    """Every measured way as a row: calls, guidance, time, and all metrics; real data last."""
    first = views[0].evaluation
    present = {k for v in views for r in v.evaluation["rows"] for k in r["metrics"]}
    names = [
        first["metric"],
        *(k for k in [*METRICS, *sorted(present - set(METRICS))] if k in present and k != first["metric"]),
    ]
    reference = usual(rows_of(views[0], "teacher"))
    body = []
    groups = [
        ("Teacher", TEACHER, rows_of(views[0], "teacher"), views[0]),
        *((v.name, colour(i), rows_of(v, "student"), v) for i, v in enumerate(views)),
    ]
    for name, paint, rows, view in groups:
        for row in rows:
            # the default ways are compared as evaluate() did, turn by turn; the others by their medians
            fast = reference["seconds_per_sample"] / row["seconds_per_sample"] if reference else None
            if row["who"] == "student" and row["default"]:
                fast = view.evaluation["speed_up"]
            body.append(
                {
                    "name": name,
                    "colour": paint,
                    "student": row["who"] == "student",
                    "default": row["default"],
                    "nfe": row["nfe"],
                    "steps": row["steps"],
                    "guidance": f"{row['guidance']:g}",
                    "time": duration(row["seconds_per_sample"]),
                    "fast": f"{number(fast, 2)}×" if fast else "–",
                    "values": [number(row["metrics"].get(k)) for k in names],
                }
            )
    floor = [number(first["floor"].get(k)) for k in names]
    return {
        "columns": [metric(k) for k in names],
        "body": body,
        "floor": floor,
        "n": first["n"],
        "batch": first["batch"],
    }


def part(views: Sequence[RunView]) -> dict[str, Any]:
    """Everything the page says of the runs in one world."""
    cards = [summary(v, i) for i, v in enumerate(views)]
    return {
        "world": views[0].evaluation["world"]["name"],
        "teacher": views[0].teacher,
        "metric": metric(views[0].evaluation["metric"]),
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
