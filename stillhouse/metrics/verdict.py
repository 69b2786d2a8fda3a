"""What a speed-up cost: quality beside speed, and every figure that fell far behind the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.metrics.metric import Metric, from_config

FAR = 2.0  # times worse than the teacher is far behind
FAR_FROM_ONE = 0.25  # of a ratio that should be 1


def behind(metric: Metric, student: float | None, teacher: float | None) -> bool:
    """Whether a student's figure is far worse than its teacher's.

    Arguments:
        metric: with its direction; one of the data's is compared with the teacher's.
        student: the figure; None where it is not finite.
        teacher: likewise; None where there is none, and nothing is said of it.

    Returns:
        True for more than :data:`FAR` times worse.
    """
    if teacher is None or (metric.better != "one" and teacher <= 0):
        return False
    if student is None:
        return True
    if metric.better == "one":
        return abs(student - 1) > max(FAR_FROM_ONE, FAR * abs(teacher - 1))
    too_high, too_low = student > FAR * teacher, student < teacher / FAR
    return {"low": too_high, "high": too_low}.get(metric.better, too_high or too_low)


def default_rows(result: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The student's and the teacher's own way in an evaluation; None for one that is not there."""
    own = {row["who"]: row for row in reversed(result["rows"]) if row["default"]}
    return own.get("student"), own.get("teacher")


def losses(result: Mapping[str, Any], known: Sequence[Metric]) -> list[tuple[Metric, float | None, float]]:
    """The figures of a student's own way that are far behind those of the teacher's.

    Arguments:
        result: an evaluation.
        known: its metrics.

    Returns:
        Metric, the student's figure and the teacher's, in the order of ``known``.
    """
    student, teacher = default_rows(result)
    if student is None or teacher is None:
        return []
    pairs = [(m, student["metrics"].get(m.name), teacher["metrics"].get(m.name)) for m in known]
    return [(m, mine, its) for m, mine, its in pairs if its is not None and behind(m, mine, its)]


def verdict(result: Mapping[str, Any]) -> list[str]:
    """An evaluation in sentences: the speed with what it cost, and what was lost. Empty without a teacher."""
    student, teacher = default_rows(result)
    if student is None or teacher is None or not result.get("speed_up"):
        return []
    known = from_config(result["metrics"])
    main = next(m for m in known if m.name == result["metric"])
    mine, its = (row["metrics"].get(main.name) for row in (student, teacher))
    words = [
        f"The student takes {student['nfe']} call(s) a sample and the teacher {teacher['nfe']}, and is "
        f"{result['speed_up']:.1f} times as fast; {main.title}: {_figure(mine)}, the teacher's "
        f"{_figure(its)}."
    ]
    lost = losses(result, known)
    if lost:
        listed = ", ".join(f"{m.title} {_figure(a)} (teacher {_figure(b)})" for m, a, b in lost)
        words.append(f"Far behind the teacher: {listed}.")
    return words


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
