"""A student's own states: where its calls stand, and which of them carries the gradient."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Flow, ScaledLinearVP
from stillhouse.parts.states.backward_simulation import backward_simulation, student_grid
from stillhouse.solvers.ddim import DDIM
from tests.parts.affine import affine, f64

COND = f64([0.9, -0.4, 0.1])


def test_the_grid_is_even_between_the_first_time_and_the_least() -> None:
    assert student_grid(Flow(), 1.0, 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert student_grid(Flow(), 0.8, 2) == pytest.approx([0.8, 0.4])
    low = (0.002 / 80) ** (1 / 7)
    assert student_grid(VE(), 1.0, 2) == pytest.approx([1, (1 + low) / 2])
    assert student_grid(VE(), 0.9, 1) == pytest.approx([0.9])
    assert student_grid(ScaledLinearVP(steps=10), 1.0, 3) == pytest.approx([1, 0.7, 0.4])  # the next steps up


@pytest.mark.parametrize("process, level", [(Flow(), 0.5), (VE(), 80 * 0.5**7)])
def test_one_call_on_noise_of_the_level_of_its_time(process, level: float) -> None:
    student = affine(0.5, 2.0, process)
    eps = Draws(3, "noise").normal(2).double()
    made = backward_simulation(student, [0.5], Draws(3, "noise"), COND, (2,))
    torch.testing.assert_close(made.double(), 0.5 * level * eps + 1 + COND[:, None], rtol=1e-5, atol=1e-5)
    made = backward_simulation(student, [0.5], Draws(3, "noise"), COND, (2,), std=3.0)
    torch.testing.assert_close(made.double(), 1.5 * eps + 1 + COND[:, None], rtol=1e-5, atol=1e-5)


def test_the_last_call_alone_carries_the_gradient() -> None:
    student = affine(0.5, 2.0)
    made = backward_simulation(student, [1.0, 0.4], Draws(3, "noise"), COND, (2,))
    (gradient,) = torch.autograd.grad(made.sum(), student.net.b)
    assert float(gradient) == pytest.approx(6 * 0.4, rel=1e-6) and student.calls == 2


def test_the_walk_renoises_unless_a_solver_is_given() -> None:
    student = affine(0.5, 2.0)
    eps = Draws(3, "noise").normal(2).double()
    clean = 0.5 * eps + 2 + COND[:, None]

    def landed(x):
        return 0.5 * x + 0.8 + COND[:, None]

    made = backward_simulation(student, [1.0, 0.4], Draws(3, "noise"), COND, (2,), DDIM())
    torch.testing.assert_close(made.double(), landed(0.6 * clean + 0.4 * eps), rtol=1e-5, atol=1e-5)
    made = backward_simulation(student, [1.0, 0.4], Draws(3, "noise"), COND, (2,)).double()
    fresh = ((made - 0.8 - COND[:, None]) / 0.5 - 0.6 * clean) / 0.4  # the noise that was put on
    assert float((fresh - eps).abs().max()) > 0.1
    draws = Draws(20_000, "many")
    many = backward_simulation(student, [1.0, 0.4], draws, torch.zeros(20_000), (1,)).double()
    spread = ((0.5 * 0.6 * 0.5) ** 2 + (0.5 * 0.4) ** 2) ** 0.5
    assert float(many.mean()) == pytest.approx(0.5 * 0.6 * 2 + 0.8, abs=0.01)
    assert float(many.std()) == pytest.approx(spread, abs=0.01)
