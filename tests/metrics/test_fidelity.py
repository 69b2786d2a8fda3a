import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.fidelity import frechet_distance, precision_recall


def normal(n, dim=4, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean, covariance, seed=0):
    """Samples whose own mean and covariance are exactly these."""
    x = normal(500, len(mean), seed)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_of_commuting_covariances():
    # |m|^2 + sum (sqrt a - sqrt b)^2 over the shared axes
    a = with_moments(torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 4.0, 9.0]).double()))
    b = with_moments(
        torch.tensor([1.0, 2.0, 2.0]).double(), torch.diag(torch.tensor([4.0, 4.0, 1.0]).double()), seed=1
    )
    assert frechet_distance(a, b) == pytest.approx(9 + 1 + 0 + 4, rel=1e-9)


def test_frechet_of_any_covariances():
    a, b = normal(500, seed=1) @ normal(4, seed=2), normal(400, seed=3) @ normal(4, seed=4)
    values = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp_min(0)
    wanted = (
        (a.mean(0) - b.mean(0)).square().sum()
        + torch.cov(a.T).trace()
        + torch.cov(b.T).trace()
        - 2 * values.sqrt().sum()
    )
    assert frechet_distance(a, b) == pytest.approx(float(wanted), rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(float(wanted), rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_identical_and_disjoint_sets():
    x = normal(200)
    same, apart = precision_recall(x, x), precision_recall(x + 100, x)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert set(apart.values()) == {0.0}


def test_density_of_the_same_distribution_is_one():
    values = precision_recall(normal(1500, 2), normal(1500, 2, seed=1))
    assert values["density"] == pytest.approx(1, abs=0.05)
    assert values["coverage"] == pytest.approx(
        1 - 0.5**5, abs=0.02
    )  # chance that none of the 5 nearest of both sets is a sample


def test_half_of_the_modes_is_precise_but_not_complete():
    real = torch.cat([normal(300), normal(300, seed=1) + 50])
    values = precision_recall(normal(300, seed=2), real)
    assert (
        values["precision"] > 0.9
        and values["recall"] == pytest.approx(0.5, abs=0.05)
        and values["coverage"] == pytest.approx(0.5, abs=0.05)
    )


def test_four_neighbours_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    made = torch.tensor([[0.5], [9.0], [30.0]])
    # radii of the real points at k = 1: 1, 1, 2, 7; of the samples: 8.5, 8.5, 21
    values = precision_recall(made, real, k=1)
    assert values == pytest.approx(
        {"precision": 2 / 3, "recall": 1.0, "density": (2 + 1 + 0) / 3, "coverage": 3 / 4}
    )


def test_bad_features_are_refused():
    with pytest.raises(StillhouseError, match="same F"):
        frechet_distance(normal(5, 2), normal(5, 3))
    with pytest.raises(StillhouseError, match="at least 6"):
        precision_recall(normal(5), normal(50))
