"""The table of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stillhouse.report.figures import TEACHER, colour, duration, metrics_of, rows_of, usual
from stillhouse.report.plots import number
from stillhouse.report.view import RunView


def table(views: Sequence[RunView]) -> dict[str, Any]:
    """Every measured way as a row: calls, guidance, time, and all metrics; real data last."""
    first = views[0].evaluation
    known = metrics_of(list(views))
    present = {k for v in views for r in v.evaluation["rows"] for k in r["metrics"]}
    names = [
        first["metric"],
        *(k for k in known if k in present and k != first["metric"]),
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
                    "memory": f"{row['memory'] / 2**30:.2f} GiB" if "memory" in row else "–",
                    "values": [number(row["metrics"].get(k)) for k in names],
                }
            )
    floor = [number(first["floor"].get(k)) for k in names]
    return {
        "columns": [known[k] for k in names],
        "body": body,
        "floor": floor,
        "floor_name": first.get("floor_name", "Real data"),
        "memory": any("memory" in r for v in views for r in v.evaluation["rows"]),
        "n": first["n"],
        "batch": first["batch"],
    }
