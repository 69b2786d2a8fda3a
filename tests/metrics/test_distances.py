import math

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.distances import mmd, paired_rmse, sliced_wasserstein, wasserstein


def normal(n, dim=2, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sliced_distance_of_a_shift_is_its_length_over_root_dim():
    x = normal(50, 3)
    shift = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    assert sliced_wasserstein(x, x + shift, projections=10_000) == pytest.approx(3 / math.sqrt(3), rel=0.02)
    # p = 1: the mean of |cos| over the sphere in 3-D is 1/2
    assert sliced_wasserstein(x, x + shift, projections=10_000, p=1) == pytest.approx(1.5, rel=0.02)


def test_sliced_distance_of_two_gaussians():
    # along every direction two centred normals of deviations 1 and 2: W_2 = 1; samples come close
    assert sliced_wasserstein(normal(20_000), 2 * normal(20_000, seed=1)) == pytest.approx(1, abs=0.03)
    assert sliced_wasserstein(normal(20_000), normal(20_000, seed=1)) < 0.04


def test_unequal_sizes_are_exact():
    x, y = normal(6), normal(4, seed=1) + 1
    repeated = sliced_wasserstein(
        x.repeat(2, 1), y.repeat(3, 1)
    )  # the same two distributions, 12 points each
    assert sliced_wasserstein(x, y) == pytest.approx(repeated, rel=1e-12)
    assert sliced_wasserstein(x, x.repeat(3, 1)) == pytest.approx(0, abs=1e-12)


def test_directions_follow_the_generator():
    x, y = normal(50), normal(50, seed=1)
    draw = [
        sliced_wasserstein(x, y, projections=4, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    assert draw[0] == draw[1] != draw[2] and sliced_wasserstein(x, y) == sliced_wasserstein(x, y)


def test_assignment_finds_the_best_pairs():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    assert wasserstein(x, x[[2, 0, 1]]) == 0
    assert wasserstein(x, x[[2, 0, 1]] + torch.tensor([0.3, 0.4])) == pytest.approx(0.5, rel=1e-6)
    line = normal(64, 1)
    other = normal(64, 1, seed=1) * 2
    assert wasserstein(line, other, p=1) == pytest.approx(
        float((line.sort(0).values - other.sort(0).values).abs().mean()), rel=1e-9
    )


def test_mmd_is_zero_in_the_mean_for_equal_distributions():
    values = [mmd(normal(200, seed=2 * i), normal(200, seed=2 * i + 1), bandwidth=1.0) for i in range(30)]
    mean = sum(values) / len(values)
    assert min(values) < 0 < max(values) and abs(mean) < 1e-3


def test_mmd_of_two_gaussians():
    # E k = h^2 / (h^2 + 2) exp(-d^2 / (2 (h^2 + 2))) for standard normals in 2-D at distance d
    h, d = 1.0, 1.5
    base = h**2 / (h**2 + 2)
    wanted = 2 * base * (1 - math.exp(-(d**2) / (2 * (h**2 + 2))))
    shift = torch.tensor([d, 0.0], dtype=torch.float64)
    assert mmd(normal(3000), normal(3000, seed=1) + shift, bandwidth=h) == pytest.approx(wanted, rel=0.05)


def test_mmd_takes_the_median_distance_of_the_reference():
    x, y = normal(300), normal(300, seed=1) * 3
    assert mmd(x, y) == mmd(x, y, bandwidth=float(torch.pdist(y).median()))


def test_paired_rmse():
    x = torch.zeros(2, 1, 1, 2)
    assert paired_rmse(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 4)), "2 and 4 numbers"),
        (lambda: sliced_wasserstein(torch.zeros(0, 2), torch.zeros(3, 2)), "empty"),
        (lambda: wasserstein(torch.zeros(3, 2), torch.zeros(4, 2)), "equal size"),
        (lambda: mmd(torch.zeros(1, 2), torch.zeros(4, 2)), "two samples"),
        (lambda: mmd(torch.zeros(4, 2), torch.zeros(4, 2)), "must be positive"),
        (lambda: paired_rmse(torch.zeros(3, 2), torch.zeros(4, 2)), "equal size"),
    ],
)
def test_bad_sets_are_refused(call, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        call()
