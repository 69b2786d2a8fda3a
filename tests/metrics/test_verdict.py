"""Speed never stands alone: what it cost is beside it, and what was lost is named."""

import pytest

from stillhouse.metrics.metric import Metric
from stillhouse.metrics.verdict import behind, losses, verdict

FRECHET, RECALL = Metric("frechet", "low", title="Fréchet distance"), Metric("recall", "high")


def evaluation(student: dict, teacher: dict | None) -> dict:
    rows = [{"who": "student", "default": True, "nfe": 1, "metrics": student}]
    if teacher is not None:
        rows.append({"who": "teacher", "default": True, "nfe": 100, "metrics": teacher})
    metrics = {m.name: m.config() for m in (FRECHET, RECALL)}
    return {"rows": rows, "metric": "frechet", "metrics": metrics, "speed_up": 150.0 if teacher else None}


def test_a_fast_student_that_lost_everything_is_not_praised():
    found = evaluation({"frechet": 78.0, "recall": 0.0}, {"frechet": 3.25, "recall": 0.62})
    first, second = verdict(found)
    assert "150.0 times as fast" in first and "78" in first and "3.25" in first
    assert second == "Far behind the teacher: Fréchet distance 78 (teacher 3.25), Recall 0 (teacher 0.62)."
    assert [m.name for m, _, _ in losses(found, [FRECHET, RECALL])] == ["frechet", "recall"]


def test_a_good_student_has_one_sentence_and_a_lone_one_none():
    found = evaluation({"frechet": 4.0, "recall": 0.6}, {"frechet": 3.25, "recall": 0.62})
    assert len(verdict(found)) == 1
    assert verdict(evaluation({"frechet": 4.0, "recall": 0.6}, None)) == []


@pytest.mark.parametrize(
    ("better", "student", "teacher", "far"),
    [
        ("low", 2.1, 1.0, True),
        ("low", 1.9, 1.0, False),
        ("low", 0.1, -0.1, False),  # about zero there is no ratio
        ("low", None, 1.0, True),
        ("low", 5.0, None, False),
        ("high", 0.4, 1.0, True),
        ("high", 0.6, 1.0, False),
        ("one", 1.3, 1.0, True),
        ("one", 0.9, 1.1, False),
        ("data", 0.4, 1.0, True),
        ("data", 2.5, 1.0, True),
        ("data", 0.8, 1.0, False),
    ],
)
def test_far_behind_is_twice_as_bad_in_the_metrics_own_direction(better, student, teacher, far):
    assert behind(Metric("m", better), student, teacher) is far
