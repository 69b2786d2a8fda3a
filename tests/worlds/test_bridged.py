"""The bridged mixture: its closed form against Bayes' rule on a grid, its limits, its pairs and its measure
of diversity."""

import pytest
import torch

from stillhouse.core.bridge import I2SB, Brownian, ResShift, unconditional
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)
BRIDGES = [Brownian(0.6), I2SB(), ResShift()]


@pytest.fixture(scope="module")
def worlds():
    return {kind: get_world("mixture", modes=5, std=0.4, bridge=kind) for kind in ("told", "blind")}


def by_quadrature(world, bridge, x_t, t, y=None):
    """``E[x_0 | x_t (, y)]`` of one state, on a fine grid of ``x_0``."""
    line = torch.linspace(-6.5, 6.5, 196, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    alpha, sigma, eta = (
        f(torch.tensor(t, dtype=torch.float64)) for f in (bridge.alpha, bridge.sigma, bridge.eta)
    )
    away = (x[:, None] - world.means).square().sum(-1) / world.stds**2
    log = (world.weights.log() - 2 * world.stds.log() - 0.5 * away).logsumexp(1)
    if y is None:  # the degraded point is integrated out: x_t is Gaussian around (alpha + eta shrink) x
        centre, var = (alpha + eta * world.shrink) * x, sigma**2 + (eta * world.blur) ** 2
    else:
        log = log - 0.5 * (y - world.shrink * x).square().sum(1) / world.blur**2
        centre, var = alpha * x + eta * y, sigma**2
    if var > 0:
        log = log - 0.5 * (x_t - centre).square().sum(1) / var
    p = log.softmax(0)
    return p @ x


@pytest.mark.parametrize("kind", ["told", "blind"])
@pytest.mark.parametrize("bridge", BRIDGES, ids=lambda b: b.name)
@pytest.mark.parametrize("t", [0.3, 0.7, 1.0])
def test_closed_form_is_bayes_rule(worlds, kind, bridge, t):
    world, at = worlds[kind], torch.full((3,), t, dtype=torch.float64)
    x = torch.tensor([[4.0, 0.0], [1.0, 3.0], [-0.5, 0.2]], dtype=torch.float64)
    y = torch.tensor([[2.0, 1.0], [0.1, 0.3], [-3.0, -2.0]], dtype=torch.float64)
    r_t = bridge.noise(x - y, at, Draws(3, "eps").normal(2, dtype=torch.float64))
    pred = world.exact(bridge)(r_t, at, {"image": y}).x0 + y
    for i in range(3):
        expected = by_quadrature(world, bridge, (r_t + y)[i], t, y[i] if kind == "told" else None)
        torch.testing.assert_close(pred[i], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["told", "blind"])
@pytest.mark.parametrize("bridge", BRIDGES, ids=lambda b: b.name)
def test_the_state_is_the_answer_at_the_clean_end_and_gradients_stay_finite(worlds, kind, bridge):
    y = torch.tensor([[0.4, -1.0], [2.0, 2.0]])
    r = torch.tensor([[3.0, 0.5], [0.0, 0.0]], requires_grad=True)
    cond = {"image": y}
    torch.testing.assert_close(worlds[kind].exact(bridge)(r, torch.zeros(2), cond).x0, r)
    pred = worlds[kind].exact(bridge)(r, torch.ones(2), cond)
    (gradient,) = torch.autograd.grad(pred.x0.sum() + pred.eps.sum(), r)
    assert pred.x0.isfinite().all() and pred.eps.isfinite().all() and gradient.isfinite().all()


def test_the_blind_one_knows_states_alone(worlds):
    bridge, t = Brownian(0.6), torch.full((2,), 0.6)
    x_t, y = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[0.0, 0.0], [2.5, -1.0]])
    blind, told = (worlds[kind].exact(bridge)(x_t - y, t, {"image": y}).x0 + y for kind in ("blind", "told"))
    torch.testing.assert_close(blind[0], blind[1])
    assert (told[0] - told[1]).norm() > 0.1
    assert worlds["blind"].exact(bridge).call is unconditional


def test_a_blind_network_is_not_given_the_degraded_point(worlds):
    network = worlds["blind"].network(Brownian(0.6), kind="x0")
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    network.call = unconditional
    x_t, y, t = torch.ones(2, 2), torch.tensor([[0.0, 0.0], [2.5, -1.0]]), torch.full((2,), 0.6)
    pred = network(x_t - y, t, {"image": y}).x0 + y
    torch.testing.assert_close(pred[0], pred[1])


def test_pairs_have_the_statistics_they_claim(worlds):
    world = worlds["told"]
    x, labels = world.data("train")
    y = world.condition(labels)["image"]
    noise = y - 0.6 * x
    assert noise.std().item() == pytest.approx(1.2, rel=0.02) and abs(noise.mean().item()) < 0.03
    assert abs((noise * x).mean().item()) < 0.1
    assert not torch.isin(world.data("test")[1], labels).any() and world.balanced_labels(
        5, "test"
    ).tolist() == [
        16384,
        16384,
        16385,
        16385,
        16386,
    ]
    again, same = world.sample_data(7, Draws(7, 1), torch.arange(7))
    assert torch.equal(again, x[:7]) and torch.equal(same, torch.arange(7))


def test_a_long_walk_of_the_told_one_has_the_diversity_of_the_posterior(worlds):
    world, bridge = worlds["told"], Brownian(0.6)
    labels = world.balanced_labels(4000)
    cond, exact = world.condition(labels), world.exact(bridge)
    _, _, log_weights = exact.given(cond["image"].double())
    true = (1 - log_weights.softmax(1).square().sum(1)).mean().item()
    r = draw_samples(exact, Sampling.steps(bridge, 50, solver="bridge"), (2,), cond, Draws(4000, 3))
    figures = world.measure(bridge.to_data(r, cond), labels)
    assert 0.3 < true < 0.8 and figures["diversity"] == pytest.approx(true, abs=0.03)
    assert figures["modes"] == 5 and figures["off_mode"] < 0.01
    mean = draw_samples(exact, Sampling.steps(bridge, 1, solver="bridge"), (2,), cond, Draws(4000, 3))
    assert world.diversity(bridge.to_data(mean, cond), labels) == 0


def test_refusals(worlds):
    with pytest.raises(StillhouseError, match="of a bridge, not of 'flow'"):
        worlds["told"].exact(Flow())
    with pytest.raises(StillhouseError, match="'told' .conditioned on the degraded point. or 'blind'"):
        get_world("mixture", bridge="deaf")
