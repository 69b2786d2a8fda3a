import math

import pytest
import torch
from torch.func import jvp

from stillhouse.core.bridge import Bridge
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided
from stillhouse.core.process import PROCESSES
from stillhouse.core.schedules import Flow
from stillhouse.worlds.base import get_world
from stillhouse.worlds.mixture.layouts import LAYOUTS
from stillhouse.worlds.mixture.world import Mixture

# those from data to noise: bridges and tokens are tried in worlds of their own
OF_NOISE = [p() for p in PROCESSES.values() if not p.discrete and not issubclass(p, Bridge)]
processes = pytest.mark.parametrize("process", OF_NOISE, ids=lambda p: p.name)


def line() -> Mixture:
    """Three unequal components on a line, two of them of one class."""
    return Mixture(
        torch.tensor([[-2.0], [0.5], [3.0]]),
        torch.tensor([0.3, 0.8, 0.5]),
        torch.tensor([0.5, 0.3, 0.2]),
        torch.tensor([0, 1, 0]),
    )


def draw(world, n, *name, labels=None):
    return world.sample_data(n, Draws(n, *name), labels)


@processes
@pytest.mark.parametrize("label", [None, -1, 0, 1])
def test_mean_is_the_integral_over_the_clean_data(process, label):
    world, t = (
        line(),
        process.time(torch.tensor([4, 1, -0.5, -2], dtype=torch.float64)),
    )  # sigma/alpha from 0.02 to 7
    x0 = torch.linspace(-8, 10, 20_001, dtype=torch.float64)
    keep = torch.ones(3, dtype=torch.bool) if label in (None, -1) else world.labels == label
    parts = (
        world.weights / world.stds * torch.exp(-0.5 * ((x0[:, None] - world.means[:, 0]) / world.stds) ** 2)
    )
    density = parts[:, keep].sum(1)
    x_t = torch.tensor([[-1.1], [0.4], [1.7], [2.5]], dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    log = density.log() - 0.5 * ((x_t - alpha[:, None] * x0) / sigma[:, None]) ** 2
    weight = (log - log.amax(1, keepdim=True)).exp()
    wanted = (weight * x0).sum(1) / weight.sum(1)
    cond = None if label is None else torch.full((4,), label)
    assert torch.allclose(world.exact(process)(x_t, t, cond).x0[:, 0], wanted, atol=1e-6, rtol=0)


@processes
def test_score_is_the_gradient_of_the_log_density(process):
    world = get_world("mixture", layout="random", modes=5, dim=3, seed=1)
    teacher, labels = world.exact(process), torch.tensor([-1, 0, 3, 4])
    x = (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        .mul(2)
        .requires_grad_(True)
    )
    t = process.time(torch.tensor([3, 1, -0.5, -2], dtype=torch.float64))
    (score,) = torch.autograd.grad(teacher.log_prob(x, t, labels).sum(), x)
    assert torch.allclose(teacher(x, t, labels).score, score, rtol=1e-8, atol=1e-10)


@processes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_are_finite_and_right(process, dtype):
    world = get_world("mixture")
    x, labels = draw(world, 64, "ends")
    x, teacher = x.to(dtype), world.exact(process)
    low, high = torch.zeros(64, dtype=dtype), torch.ones(64, dtype=dtype)
    drift = 30 * float(process.sigma(low[:1]))  # a clipped process never quite reaches its data
    assert (teacher(x, low, labels).x0 - x).abs().max() <= 1e-5 + drift
    ends = [teacher(x, t, c) for t in (low, high) for c in (None, labels)]
    assert all(v.isfinite().all() for pred in ends for v in (pred.x0, pred.eps, pred.score))
    noise = process.prior_std * torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)
    assert (teacher(noise, high, labels).x0 - world.means[labels].to(dtype)).abs().max() < 0.2


def test_pure_noise_tells_nothing():
    world = get_world("mixture", weights=[1, 2, 3, 4, 5, 6, 7, 8])
    pred = world.exact(Flow())(
        torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        torch.ones(5).double(),
    ).x0
    assert torch.allclose(pred, (world.weights @ world.means).expand(5, 2), atol=1e-12)


@processes
def test_derivatives_agree_with_differences(process):
    world = get_world("mixture", modes=6, std=0.6, radius=2.5, classes=2)
    teacher, labels = world.exact(process), torch.tensor([0, 1, -1])
    g = torch.Generator().manual_seed(3)
    x, v = torch.randn(2, 3, 2, generator=g, dtype=torch.float64)
    t, h = torch.tensor([0.2003, 0.5003, 0.8003], dtype=torch.float64), 1e-6  # between the nodes of a table

    def ask(x, t):
        return teacher(x, t, labels).x0

    _, tangent = jvp(ask, (x, t), (v, torch.ones_like(t)))
    difference = (ask(x + h * v, t + h) - ask(x - h * v, t - h)) / (2 * h)
    assert torch.allclose(tangent, difference, rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(ask, (x.clone().requires_grad_(True), t.clone().requires_grad_(True)))


def test_guided_exact_is_the_weighted_sum_of_means():
    world = get_world("mixture", classes=2)
    teacher, labels = world.exact(Flow()), torch.tensor([0, 1])
    x, t = (
        torch.tensor([[0.3, 0.9], [-0.2, 0.1]], dtype=torch.float64),
        torch.tensor([0.6, 0.8], dtype=torch.float64),
    )
    plain, empty = teacher(x, t, labels), teacher(x, t)
    wanted = empty.velocity + 3.0 * (plain.velocity - empty.velocity)
    assert torch.allclose(Guided(teacher, 3.0)(x, t, labels).velocity, wanted, atol=1e-12)
    assert (plain.x0 - empty.x0).abs().max() > 0.5


def test_class_probabilities_follow_bayes_rule():
    world = line()
    x, t = torch.linspace(-3, 4, 9, dtype=torch.float64)[:, None], torch.full((9,), 0.4, dtype=torch.float64)
    teacher = world.exact(Flow())
    prior = torch.stack([world.weights[0] + world.weights[2], world.weights[1]]).log()
    wanted = torch.stack(
        [teacher.log_prob(x, t, torch.full((9,), c)) + prior[c] - teacher.log_prob(x, t) for c in (0, 1)], 1
    )
    assert torch.allclose(teacher.class_log_probs(x, t), wanted, atol=1e-10)
    assert torch.allclose(wanted.exp().sum(1), torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_draws_have_the_mixtures_moments_and_modes(layout):
    world = get_world("mixture", layout=layout)
    x, labels = draw(world, 20_000, layout)
    assert (
        x.double().mean(0) - world.weights @ world.means
    ).abs().max() < 5 * world.sigma_data * 1.5 / math.sqrt(20_000)
    spread = (x.double() - world.weights @ world.means).square().mean().sqrt()
    assert abs(float(spread) / world.sigma_data - 1) < 0.02
    assert world.modes_held(x, 0.5) == len(world.means) and world.off_mode(x) < 2e-3
    assert world.off_mode(x, (labels + 1) % world.classes) > 0.4
    assert world.accuracy(x, labels) > 0.97


def test_draws_obey_labels_and_weights_and_are_reproducible():
    world = get_world("mixture", weights=[1, 1, 1, 1, 1, 1, 1, 9], classes=4)
    asked = torch.tensor([0, 1, 2, 3, -1]).repeat(2000)
    x, labels = draw(world, 10_000, "a", labels=asked)
    assert torch.equal(labels[asked >= 0], asked[asked >= 0])
    assert abs(float((labels[asked < 0] == 3).double().mean()) - 10 / 16) < 0.05
    assert abs(float(world.mode_shares(x[asked == 3])[7]) - 0.9) < 0.03
    assert torch.equal(x, draw(world, 10_000, "a", labels=asked)[0]) and not torch.equal(
        x, draw(world, 10_000, "b", labels=asked)[0]
    )
    assert torch.equal(world.data("test")[0], world.data("test")[0]) and not torch.equal(
        *(world.data(s)[0] for s in ("train", "test"))
    )


def test_measure_sees_what_is_wrong():
    world = get_world("mixture")
    x, labels = draw(world, 4000, "fresh")
    good, floor = world.measure(x, labels), world.floor(4000)
    assert (
        good["swd"] < 0.2
        and good["modes"] == 8
        and good["off_mode"] < 0.002
        and good["accuracy"] == 1
        and abs(good["mmd"]) < 2e-3
    )
    assert floor.keys() == good.keys() and floor["modes"] == 8 and floor["swd"] < 0.2
    assert good == world.measure(x, labels)
    half = x[(labels < 4)]
    lost, blurred = world.measure(half), world.measure(x * 0.5)
    assert lost["modes"] == 4 and lost["swd"] > 1 and lost["mmd"] > 0.05 and "accuracy" not in lost
    assert blurred["modes"] == 0 and blurred["off_mode"] > 0.99
    assert world.measure(x, labels.roll(1))["accuracy"] < 0.2


def test_options_shape_the_ring():
    world = get_world("mixture", radius=2.0, std=0.1, scale=[1.0, 0.5], labels=[0, 1] * 4)
    assert world.means[2].tolist() == pytest.approx([0, 1], abs=1e-12) and world.stds.unique().tolist() == [
        pytest.approx(0.1)
    ]
    assert world.classes == 2 and world.config == {
        "name": "mixture",
        "radius": 2.0,
        "std": 0.1,
        "scale": [1.0, 0.5],
        "labels": [0, 1] * 4,
    }
    again = get_world(**world.config)
    assert torch.equal(again.means, world.means)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layout": "rign"}, "did you mean 'ring'"),
        ({"weights": [1, 2]}, "8 components needs 8 weights"),
        ({"std": 0.0}, "must be positive"),
        ({"classes": 9}, "can't make 9 classes"),
        ({"sides": 3}, "sides"),
        ({"labels": [0, 2] * 4}, "at least one component"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        get_world("mixture", **options)


def test_unknown_world_is_refused():
    with pytest.raises(StillhouseError, match="did you mean 'mixture'"):
        get_world("mixtrue")


def test_wrong_samples_are_refused():
    world = get_world("mixture")
    with pytest.raises(StillhouseError, match="shape"):
        world.measure(torch.zeros(10, 3))
    with pytest.raises(StillhouseError, match="one label per sample"):
        world.measure(torch.zeros(10, 2), torch.zeros(9))
    with pytest.raises(StillhouseError, match="draws for 4"):
        world.sample_data(5, Draws(4, 0))


def test_the_ode_carries_noise_onto_the_modes():
    world = get_world("mixture")
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = world.endpoint(Flow(), noise)
    assert world.off_mode(ends) < 0.05 and world.off_mode(noise) > 0.9
    back = world.endpoint(Flow(), ends, t=0.0, s=1.0)
    assert (back - noise).abs().max() < 1e-3


def test_networks_are_seeded_and_fit_the_world():
    world, process = get_world("mixture", layout="random", dim=3, classes=4), Flow()
    x, t, labels = torch.ones(5, 3), torch.full((5,), 0.3), torch.tensor([0, 1, 2, 3, -1])
    before = torch.random.get_rng_state()
    one, same, other = (
        world.network(process, seed, width=16, depth=1, two_time=True, guidance_input=True)
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert one(x, t, labels, s=t / 2, guidance=torch.full((5,), 2.0)).x0.shape == (5, 3)
    assert world.network(process, kind="edm", width=16).kind.sigma_data == world.sigma_data
