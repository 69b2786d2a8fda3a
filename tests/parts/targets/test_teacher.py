"""A teacher's steps along its path."""

import torch

from stillhouse.parts.targets.teacher import teacher_steps
from stillhouse.solvers.ddim import DDIM
from tests.parts.affine import affine, f64

X, COND = f64([[1.0, -2.0], [0.5, 3.0]]), f64([0.9, -0.4])
TIMES = [f64([0.9, 0.5]), f64([0.6, 0.4]), f64([0.2, 0.3])]


def slope(x, t):
    """The velocity of the clean estimate ``0.5 x + 2 t + cond``: ``(x - D) / t``."""
    return (x - (0.5 * x + 2 * t[:, None] + COND[:, None])) / t[:, None]


def test_two_steps_of_heun_by_hand() -> None:
    x = X
    for t, s in zip(TIMES, TIMES[1:], strict=False):
        h = (s - t)[:, None]
        first = slope(x, t)
        x = x + h / 2 * (first + slope(x + h * first, s))
    teacher = affine(0.5, 2.0)
    made = teacher_steps(teacher, X.clone().requires_grad_(), TIMES, COND)
    torch.testing.assert_close(made, x)
    assert not made.requires_grad and teacher.calls == 4


def test_another_solver() -> None:
    x = X
    for t, s in zip(TIMES, TIMES[1:], strict=False):
        x = x + (s - t)[:, None] * slope(x, t)
    torch.testing.assert_close(teacher_steps(affine(0.5, 2.0), X, TIMES, COND, DDIM()), x)
