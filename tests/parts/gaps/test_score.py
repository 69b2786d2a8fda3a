"""Score differences, of two denoisers whose answers are written out."""

import pytest
import torch
from torch import Tensor

from stillhouse.core.schedules import VE, Flow, Trig
from stillhouse.parts.gaps.score import (
    SCORE_WEIGHTS,
    difference,
    dmd_gradient,
    fake_for,
    noise_share,
    sds_gradient,
    surrogate_loss,
)
from stillhouse.worlds.mixture.layouts import make_mixture
from tests.parts.affine import affine, f64

X = f64([[[1.0, -2.0]], [[0.5, 3.0]]])
EPS = f64([[[0.3, 0.7]], [[-1.1, 0.2]]])
T = f64([0.25, 0.6])
A, S = f64([0.75, 0.4]).reshape(2, 1, 1), T.reshape(2, 1, 1)
COND, OTHER = f64([0.9, -0.4]), f64([-0.2, 0.1])
X_T = A * X + S * EPS
REAL = 0.5 * X_T + 2 * S + COND.reshape(2, 1, 1)  # the clean estimate of `real`
FAKE = -0.3 * X_T + S


def players():
    return affine(0.5, 2.0), affine(-0.3, 1.0)


def without_graph(made: Tensor) -> Tensor:
    assert not made.requires_grad
    return made


def test_the_difference_is_own_less_real() -> None:
    (real, fake), x = players(), X.clone().requires_grad_()
    gap, pred = difference(x, T, EPS, real, fake, COND)
    fakes = FAKE + COND.reshape(2, 1, 1)
    torch.testing.assert_close(without_graph(gap), fakes - REAL)
    torch.testing.assert_close(without_graph(pred.x0), REAL)
    torch.testing.assert_close(without_graph(difference(x, T, EPS, real, None, COND)[0]), X - REAL)
    assert real.calls == 2 and fake.calls == 1


def test_the_gradient_is_normalised_by_each_samples_distance_to_the_teachers_answer() -> None:
    (real, fake), x = players(), X.clone().requires_grad_()
    fakes = FAKE + COND.reshape(2, 1, 1)
    size = torch.stack([(X - REAL)[i].abs().sum() / 2 for i in (0, 1)]).reshape(2, 1, 1)
    torch.testing.assert_close(
        without_graph(dmd_gradient(x, T, EPS, real, fake, COND)), (fakes - REAL) / size
    )
    # a sample that is the teacher's answer, and the fake's: 0 / 0
    here = affine(0.0, 0.0)
    assert not dmd_gradient(torch.zeros_like(X), T, EPS, here, here).any()


def test_weights_of_the_score_difference() -> None:
    for process, alpha, sigma in ((Flow(), 0.75, 0.25), (VE(), 1.0, 80 * 0.25**7)):
        at = affine(1.0, 0.0, process)(X[:1], T[:1]).at
        share = sigma**2 / (alpha**2 + sigma**2)
        assert float(noise_share(at)) == pytest.approx(share, rel=1e-12)
        made = {name: float(weight(at)) for name, weight in SCORE_WEIGHTS.items()}
        assert made == pytest.approx({"ratio": sigma / alpha, "sigma2": share, "one": 1.0}, rel=1e-12)
    at = affine(1.0, 0.0, Trig())(X[:1], T[:1]).at
    torch.testing.assert_close(noise_share(at), at.sigma**2)  # variance-preserving


@pytest.mark.parametrize("weight", ["ratio", "sigma2", "one"])
def test_score_distillation_by_hand(weight: str) -> None:
    (real, fake), x = players(), X.clone().requires_grad_()
    w = {"ratio": S / A, "sigma2": S**2 / (A**2 + S**2), "one": torch.ones_like(S)}[weight]
    eps_real = (X_T - A * REAL) / S
    made = without_graph(sds_gradient(x, T, EPS, real, cond=COND, weight=weight))
    torch.testing.assert_close(made, w * (eps_real - EPS))
    if weight == "ratio":
        torch.testing.assert_close(made, X - REAL)
    eps_fake = (X_T - A * (FAKE + OTHER.reshape(2, 1, 1))) / S
    made = without_graph(sds_gradient(x, T, EPS, real, fake, COND, weight, OTHER))
    torch.testing.assert_close(made, w * (eps_real - eps_fake))
    alone = sds_gradient(X, T, EPS, real, fake, COND, weight)
    torch.testing.assert_close(alone, w * (eps_real - (X_T - A * FAKE) / S))


def test_the_ratio_is_the_usual_weight_and_where_there_is_no_signal_nothing_moves() -> None:
    real, _ = players()
    torch.testing.assert_close(
        sds_gradient(X, T, EPS, real), sds_gradient(X, T, EPS, real, weight="ratio"), rtol=0, atol=0
    )
    broken = affine(float("nan"), 0.0)
    assert not sds_gradient(X, T, EPS, broken).any()


def test_the_surrogates_value_and_gradient() -> None:
    x, g = X.clone().requires_grad_(), EPS.clone().requires_grad_()
    for reduction, parts in (("mean", 4), ("sum", 2)):
        loss = surrogate_loss(x, g, reduction)
        assert float(loss.detach()) == pytest.approx((0.09 + 0.49 + 1.21 + 0.04) / 2 / parts, rel=1e-12)
        torch.testing.assert_close(torch.autograd.grad(loss, x)[0], EPS / parts)
    assert torch.equal(surrogate_loss(x, g), surrogate_loss(x, g, "mean"))
    assert torch.autograd.grad(surrogate_loss(x, g), g, allow_unused=True)[0] is None


def test_the_fake_is_a_copy_of_the_teacher_or_of_the_student_of_a_closed_form() -> None:
    teacher, student = players()
    made = fake_for(teacher.requires_grad_(False), student)
    assert float(made.net.a.detach()) == 0.5 and made.net is not teacher.net and made.net.a.requires_grad
    of_exact = fake_for(make_mixture().exact(Flow()), student)
    assert float(of_exact.net.a.detach()) == -0.3 and of_exact.net is not student.net
