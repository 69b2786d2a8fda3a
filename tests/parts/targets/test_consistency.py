"""The guided teacher's step, the target at its end and the boundary, of answers that are written out."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.prediction import EDM, Bounded
from stillhouse.core.schedules import VE, Flow, ScaledLinearVP
from stillhouse.parts.targets.consistency import consistency_target, enforce_boundary, guided_step
from tests.parts.affine import affine, f64

X = f64([[1.0, -2.0], [0.5, 3.0]])
T, LOWER = f64([0.5, 0.8]), f64([0.25, 0.4])
COND = f64([0.9, -0.4])


def column(v: torch.Tensor) -> torch.Tensor:
    return v[:, None]


@pytest.mark.parametrize("w", [1.0, 3.0, f64([2.0, 0.5])])
def test_a_step_under_guidance_by_hand(w) -> None:
    empty = 0.5 * X + 2 * column(T)
    clean = empty + (column(w) if torch.is_tensor(w) else w) * column(COND)
    eps = (X - (1 - column(T)) * clean) / column(T)
    expected = (1 - column(LOWER)) * clean + column(LOWER) * eps
    teacher = affine(0.5, 2.0)
    torch.testing.assert_close(guided_step(teacher, X, T, LOWER, COND, w), expected)
    assert teacher.calls == (1 if not torch.is_tensor(w) and w == 1 else 2)
    if not torch.is_tensor(w) and w == 1:
        torch.testing.assert_close(guided_step(teacher, X, T, LOWER, COND), expected)


def test_the_target_is_the_answer_and_at_the_lowest_level_the_state() -> None:
    model, t = affine(0.5, 2.0), f64([0.1, 0.1 + 2e-6])
    target = consistency_target(model, X, t, 0.1, COND)
    torch.testing.assert_close(target[0], X[0], rtol=0, atol=0)
    torch.testing.assert_close(target[1], 0.5 * X[1] + 2 * t[1] + COND[1])
    assert torch.equal(consistency_target(model, X, t[:1].expand(2) + 5e-7, 0.1, COND), X)


def test_the_target_is_given_a_scale() -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x, t, cond=None, guidance=None):
            return x * guidance[:, None]

    model = affine(0.0, 0.0)
    model.net = Scaled()
    torch.testing.assert_close(
        consistency_target(model, X, T, 0.0, None, f64([2.0, 3.0])), X * f64([[2.0], [3.0]])
    )


def test_the_boundary_of_an_edm_student_is_its_first_level() -> None:
    student = affine(0.7, 0.3, VE(sigma_min=0.01, sigma_max=20.0), "edm")
    enforce_boundary(student)
    assert isinstance(student.kind, EDM) and student.kind.boundary == pytest.approx(0.01, rel=1e-9)
    first = torch.full((2,), student.process.t_min, dtype=torch.float64)
    torch.testing.assert_close(student(X, first).x0, X, rtol=1e-9, atol=1e-9)


def test_the_boundary_of_a_table_is_its_first_step() -> None:
    process = ScaledLinearVP(steps=50)
    for kind in ("eps", "v"):
        student = affine(0.7, 0.3, process, kind)
        enforce_boundary(student)
        assert isinstance(student.kind, Bounded)
        assert (student.kind.inner, student.kind.steps) == (kind, 50)
        torch.testing.assert_close(student(X, f64([0.02, 0.02])).x0, X)
        kept = student.kind
        enforce_boundary(student)
        assert student.kind is kept  # once


def test_others_have_the_boundary_at_the_clean_end() -> None:
    for process, kind in ((Flow(), "velocity"), (Flow(), "edm"), (ScaledLinearVP(), "edm")):
        student = affine(0.7, 0.3, process, kind)
        before = student.kind
        enforce_boundary(student)
        assert student.kind is before


def test_a_draw_of_the_tables_step_is_no_accident() -> None:
    """The step that is drawn is one that the boundary holds for: the first is step 1 of the table."""
    process = ScaledLinearVP(steps=50)
    t = process.on_table(Draws(200, "t").uniform(dtype=torch.float64))
    assert float(t.min()) >= 0.02
