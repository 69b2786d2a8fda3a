"""The softmax over finitely many points, term by term in plain numbers."""

import math

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.schedules import VE, Flow, Trig

POINTS = torch.tensor([[[1.0, -2.0]], [[0.5, 3.0]], [[-1.5, 0.2]]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1])
X = torch.tensor([[[0.3, 0.4]], [[-0.6, 1.0]], [[2.0, 0.1]]], dtype=torch.float64)


def mean(x, alpha, sigma, among):
    weights = []
    for i in among:
        away = sum((float(v) - alpha * float(p)) ** 2 for v, p in zip(x[0], POINTS[i][0], strict=True))
        weights.append(math.exp(-away / (2 * sigma**2)))
    return [
        sum(w * float(POINTS[i][0, d]) for w, i in zip(weights, among, strict=True)) / sum(weights)
        for d in (0, 1)
    ]


@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_the_mean_is_that_of_the_posterior(chunk: int) -> None:
    t = torch.tensor([0.7, 0.4, 0.55], dtype=torch.float64)
    cond = torch.tensor([1, -1, 0])
    among = [[1, 2], [0, 1, 2], [0]]
    for process, alpha, sigma in (
        (Flow(), 1 - t, t),
        (VE(), torch.ones(3), 80 * t**7),
        (Trig(), torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)),
    ):
        exact = FiniteDenoiser(process, POINTS, LABELS, chunk)
        expected = [mean(X[i], float(alpha[i]), float(sigma[i]), among[i]) for i in range(3)]
        torch.testing.assert_close(exact(X, t, cond).x0[:, 0], torch.tensor(expected, dtype=torch.float64))
        expected = [mean(X[i], float(alpha[i]), float(sigma[i]), [0, 1, 2]) for i in range(3)]
        torch.testing.assert_close(exact(X, t).x0[:, 0], torch.tensor(expected, dtype=torch.float64))
        single = exact(X, t, torch.tensor(1)).x0[:, 0]
        expected = [mean(X[i], float(alpha[i]), float(sigma[i]), [1, 2]) for i in range(3)]
        torch.testing.assert_close(single, torch.tensor(expected, dtype=torch.float64))
    assert exact.classes == 2 and exact.shape == (1, 2)


def test_the_ends() -> None:
    exact = FiniteDenoiser(Flow(), POINTS, LABELS)
    torch.testing.assert_close(exact(X, torch.zeros(3)).x0, POINTS[[2, 2, 0]])  # the nearest points
    torch.testing.assert_close(exact(X, torch.ones(3)).x0, POINTS.mean(0).expand(3, 1, 2))
    t = torch.full((3,), 1e-5, dtype=torch.float64, requires_grad=True)
    exact(POINTS * (1 - 1e-5), t).x0.sum().backward()
    assert t.grad is not None and t.grad.isfinite().all()


def test_states_keep_their_type_and_the_sums_are_in_float32() -> None:
    exact = FiniteDenoiser(Flow(), POINTS.float(), LABELS)
    t = torch.tensor([0.7, 0.4, 0.55])
    half = exact(X.to(torch.bfloat16), t).x0
    assert half.dtype == torch.bfloat16
    whole = exact(X.to(torch.bfloat16).float(), t).x0
    assert torch.equal(half, whole.to(torch.bfloat16))


def test_one_time_for_all_rows() -> None:
    exact = FiniteDenoiser(Flow(), POINTS, LABELS)
    one = exact(X, torch.tensor([0.5], dtype=torch.float64).expand(3)).x0
    torch.testing.assert_close(exact.mean(X, torch.tensor(0.5, dtype=torch.float64)), one)


def test_data_without_labels_takes_no_condition() -> None:
    exact = FiniteDenoiser(Flow(), POINTS)
    assert exact.classes == 0
    with pytest.raises(StillhouseError, match="has no labels"):
        exact(X, torch.full((3,), 0.5), LABELS)
    assert FiniteDenoiser(Flow(), POINTS, torch.zeros(3, dtype=torch.long)).classes == 1
