"""The evaluation, on a mixture whose teacher is exact."""

from __future__ import annotations

import json

import pytest
import torch

from stillhouse.api.evaluate import evaluate, exact_teacher
from stillhouse.api.walks import walks_of
from stillhouse.core.conditions import balanced_labels
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow, process_from_config
from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world

WORLD = get_world("mixture", layout="ring", classes=1)


def exact_student(samplings: dict[int, Sampling], process=None) -> Model:
    """A student that knows what the teacher knows, walked in fewer steps."""
    return Model(WORLD.exact(process or Flow()), WORLD.shape, 0, samplings, world="mixture")


@pytest.fixture(scope="module")
def found() -> dict:
    teacher = exact_teacher(WORLD, Flow())
    teacher.classes = 0
    student = exact_student({4: Sampling.steps(Flow(), 4, "ddim"), 1: Sampling.steps(Flow(), 1, "ddim")})
    return evaluate(
        student, WORLD, teacher=teacher, n=800, teacher_steps=(1, 2, 4, 8, 16), teacher_solver="ddim"
    )


def rows(found: dict, who: str) -> dict[int, dict]:
    return {r["steps"]: r for r in found["rows"] if r["who"] == who}


def test_rows_are_complete_and_plain(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(rows(found, "student")) == {1, 4} and set(rows(found, "teacher")) == {1, 2, 4, 8, 16, 64}
    assert [r["steps"] for r in found["rows"] if r["default"]] == [4, 64]
    assert all(r["nfe"] == r["steps"] and r["seconds_per_sample"] > 0 for r in found["rows"])
    assert found["metric"] == "swd" and found["parameters"] == {"student": 0, "teacher": 0}
    assert found["world"]["layout"] == "ring" and "swd" in found["floor"]


def test_the_same_walk_of_the_same_model_gives_the_same_figures(found):
    student, teacher = rows(found, "student"), rows(found, "teacher")
    for steps in (1, 4):
        assert student[steps]["metrics"] == teacher[steps]["metrics"]


def test_more_steps_come_nearer_to_the_endpoint_and_to_the_data(found):
    error = [rows(found, "teacher")[k]["metrics"]["paired_rmse"] for k in (1, 4, 16, 64)]
    assert error == sorted(error, reverse=True) and error[0] > 2 and error[-1] < 0.15
    assert found["paired_rmse"] == rows(found, "student")[4]["metrics"]["paired_rmse"]
    assert (
        rows(found, "teacher")[64]["metrics"]["swd"]
        < 3 * found["floor"]["swd"]
        < rows(found, "teacher")[1]["metrics"]["swd"]
    )


def test_the_speed_up_is_of_the_default_ways(monkeypatch):
    """By a clock that a call of the network moves on by a second: the teacher's 64 calls over the student's
    4, whatever else the machine does."""
    teacher, student = exact_teacher(WORLD, Flow()), exact_student({4: Sampling.steps(Flow(), 4, "ddim")})
    teacher.classes = 0
    models = (teacher.denoiser, student.denoiser)
    monkeypatch.setattr("stillhouse.api.walks.time.perf_counter", lambda: sum(m.calls for m in models))
    found = evaluate(student, WORLD, teacher=teacher, n=8, teacher_steps=(8,), teacher_solver="ddim")
    assert found["speed_up"] == 16
    few, many = (rows(found, "teacher")[k]["seconds_per_sample"] for k in (8, 64))
    assert many == 8 * few > 0


def test_everything_but_time_follows_from_the_seed():
    student = exact_student({2: Sampling([0.9, 0.4, 0.0], "renoise")})

    def figures(seed: int) -> list[dict]:
        return [r["metrics"] for r in evaluate(student, WORLD, n=100, seed=seed)["rows"]]

    assert figures(3) == figures(3) != figures(4)


def test_alone_there_is_nothing_to_compare_with():
    found = evaluate(exact_student({2: Sampling.steps(Flow(), 2, "ddim")}), WORLD, n=40)
    assert found["speed_up"] is None and found["paired_rmse"] is None and len(found["rows"]) == 1


def test_a_student_on_another_scale_of_noise_starts_from_the_same_noise():
    ve = process_from_config({"name": "ve"})
    teacher = exact_teacher(WORLD, ve, steps=40)
    teacher.classes = 0
    start = 0.9
    student = exact_student({40: Sampling([start * (1 - i / 40) for i in range(41)], "heun")}, ve)
    found = evaluate(student, WORLD, teacher=teacher, n=64, teacher_steps=())
    # the same direction of the noise leads into the same mode of the ring, whatever the level it starts from
    assert found["paired_rmse"] < 1.0


def test_guidance_counts_double():
    teacher = exact_teacher(get_world("mixture"), Flow(), steps=4, solver="ddim")
    teacher.samplings[4] = teacher.samplings[4].changed(guidance=2.0)
    walks = walks_of(teacher, "teacher", [1, 2])
    assert [(w.steps, w.nfe, w.default) for w in walks] == [(1, 2, False), (2, 4, False), (4, 8, True)]


def test_labels_are_spread_evenly():
    assert balanced_labels(5, 0) is None
    assert torch.bincount(balanced_labels(20, 4)).tolist() == [5] * 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n": 4}, "at least 8 samples"),
        ({"teacher_steps": (0, 2)}, "at least one step|1 or more"),
    ],
)
def test_bad_requests_get_a_sentence(change, sentence):
    teacher = exact_teacher(WORLD, Flow(), steps=2)
    teacher.classes = 0
    with pytest.raises(StillhouseError, match=sentence):
        evaluate(
            exact_student({1: Sampling.steps(Flow(), 1, "ddim")}),
            WORLD,
            teacher=teacher,
            **{"n": 40, **change},
        )


def test_models_that_do_not_fit_get_a_sentence():
    student = exact_student({1: Sampling.steps(Flow(), 1, "ddim")})
    with pytest.raises(StillhouseError, match="the student makes"):
        evaluate(student, get_world("digits"), n=40)
    with pytest.raises(StillhouseError, match="0 classes, the teacher 8"):
        evaluate(student, get_world("mixture"), teacher=exact_teacher(get_world("mixture"), Flow()), n=40)


def test_broken_samples_are_named():
    student = exact_student({1: Sampling.steps(Flow(), 1, "ddim")})
    student.denoiser.means.fill_(float("nan"))
    with pytest.raises(StillhouseError, match="samples of the student in 1 step.* not finite"):
        evaluate(student, WORLD, n=40)
