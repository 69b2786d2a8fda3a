"""Losses of tokens: the bounds against their definition, their best answers, and the divergences' fixed
points."""

import pytest
import torch

from stillhouse.core.discrete import Masked, Uniform, one_hot
from stillhouse.core.draws import Draws
from stillhouse.core.token_likelihood import nelbo, stratified, uniform_bound
from stillhouse.parts.tokens.losses import DIVERGENCES, divergence, over_replaced
from stillhouse.worlds.text.chain import Chain

torch.set_num_threads(1)
V = 4


def full(value: float, n: int = 1) -> torch.Tensor:
    return torch.full((n,), value, dtype=torch.float64)


def distributions(*shape: int, seed: int = 0) -> torch.Tensor:
    return (
        torch.randn(*shape, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        .mul(2)
        .log_softmax(-1)
    )


def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    gap = torch.where(a.isneginf(), 0.0, a - b)
    return (a.exp() * gap).sum(-1)


@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_uniform_bound_is_the_limit_of_many_small_steps(schedule, t):
    """``KL(q(x_s | z, x_0) || q(x_s | z, D)) / (t - s)`` as ``s -> t``."""
    process, dt = Uniform(V, schedule), 1e-6
    x = torch.arange(V)[None].repeat(V, 1)
    z = torch.arange(V)[:, None].expand(V, V)
    pred, times = distributions(V, V), full(t, V)
    bound = uniform_bound(process, pred, x, z, times)
    small = (
        kl(
            process.posterior(one_hot(x, V), z, times, times - dt),
            process.posterior(pred, z, times, times - dt),
        )
        / dt
    )
    torch.testing.assert_close(bound, small, rtol=2e-4, atol=1e-4)
    assert (bound > 0).all()
    torch.testing.assert_close(
        uniform_bound(process, one_hot(x, V), x, z, times),
        torch.zeros(V, V, dtype=torch.float64),
        atol=1e-9,
        rtol=0,
    )


@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
def test_masked_weight_is_the_limit_of_many_small_steps(schedule):
    process, dt, t = Masked(V, schedule), 1e-6, 0.4
    x, pred = torch.tensor([[2]]), distributions(1, 1)
    hidden = torch.full((1, 1), V)
    small = (
        kl(
            process.posterior(one_hot(x, V), hidden, full(t), full(t - dt)),
            process.posterior(pred, hidden, full(t), full(t - dt)),
        )
        / dt
    )
    weight = process.dsigma(full(t)) / process.sigma(full(t))
    assert float(small) == pytest.approx(float(weight * -pred[0, 0, 2]), rel=1e-4)


@pytest.mark.parametrize(
    "process", [Masked(6), Uniform(6), Masked(6, "cosine")], ids=lambda p: f"{p.name}-{p.schedule}"
)
def test_the_bound_of_the_exact_denoiser_is_near_the_entropy_and_least(process):
    """In continuous time the exact denoiser's bound is the text's own negative log-likelihood."""
    world, n = Chain(), 4096
    x, _ = world.sample_data(n, Draws(n, "x"))
    draws = Draws(n, "t")
    exact = world.exact(process)
    value = float(nelbo(exact, x, stratified(process, draws), draws))
    assert value == pytest.approx(1.144, abs=0.04)

    class Blunt(type(exact)):
        def mean(self, x_t, t, cond):
            return (0.8 * super().mean(x_t, t, cond)).log_softmax(-1)

    draws = Draws(n, "t")
    blunt = Blunt(process, world.chain, world.first)
    assert float(nelbo(blunt, x, stratified(process, draws), draws)) > value + 0.005


def test_leave_one_out_and_not_the_posterior_minimises_the_uniform_bound():
    """sddlm's card, A: the network of a uniform process must not look at its own position."""
    world, process, n = Chain(), Uniform(6), 2048
    x, _ = world.sample_data(n, Draws(n, "x"))

    class Whole(type(world.exact(process))):
        def mean(self, x_t, t, cond):
            return process.including(super().mean(x_t, t, cond), x_t, t)

    values = {}
    for kind in (type(world.exact(process)), Whole):
        draws = Draws(n, "t")
        values[kind] = float(
            nelbo(kind(process, world.chain, world.first), x, stratified(process, draws), draws)
        )
    assert values[Whole] > 1.3 * values[type(world.exact(process))]


def test_times_are_stratified_over_the_whole_batch():
    process = Masked(V)
    whole = stratified(process, Draws(8, "t"))
    place = (whole - process.t_min) / (1 - process.t_min)
    assert sorted((place * 8).long().tolist()) == list(range(8)) and whole.dtype == torch.float64
    parts = torch.cat([stratified(process, Draws(4, "t", rank=rank, world=2)) for rank in range(2)])
    assert torch.equal(parts, whole)
    assert whole.min() >= process.t_min and whole.max() < 1


def fitted(name: str, targets: torch.Tensor) -> torch.Tensor:
    """The one distribution that is nearest to all ``targets`` (N, V), found by gradient descent."""
    logits = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimiser.zero_grad()
        loss = divergence(name, logits.log_softmax(-1).expand_as(targets), targets).mean()
        loss.backward()
        return loss

    for _ in range(5):
        optimiser.step(closure)
    return logits.detach().softmax(-1)


def test_reverse_kl_has_the_geometric_mean_as_its_fixed_point_and_forward_kl_the_mean():
    targets = distributions(5, seed=3)
    geometric = targets.mean(0).softmax(-1)
    torch.testing.assert_close(fitted("reverse_kl", targets), geometric, atol=1e-6, rtol=0)
    torch.testing.assert_close(fitted("forward_kl", targets), targets.exp().mean(0), atol=1e-6, rtol=0)
    assert -(geometric * geometric.log()).sum() < -(targets.exp().mean(0) * targets.exp().mean(0).log()).sum()


def test_divergences_by_hand():
    p, q = (
        torch.tensor([0.5, 0.5], dtype=torch.float64).log(),
        torch.tensor([0.9, 0.1], dtype=torch.float64).log(),
    )
    log = lambda v: float(torch.tensor(v, dtype=torch.float64).log())  # noqa: E731
    expected = {
        "reverse_kl": 0.5 * (log(0.5 / 0.9) + log(0.5 / 0.1)),
        "forward_kl": 0.9 * log(0.9 / 0.5) + 0.1 * log(0.1 / 0.5),
        "absolute": log(0.9 / 0.5) + log(0.5 / 0.1),
        "squared": log(0.9 / 0.5) ** 2 + log(0.5 / 0.1) ** 2,
    }
    assert set(expected) == set(DIVERGENCES)
    for name, value in expected.items():
        assert float(divergence(name, p, q)) == pytest.approx(value)
        assert float(divergence(name, q, q)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_target_of_never_is_finite_with_a_finite_gradient(name):
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = divergence(name, logits.log_softmax(-1), torch.tensor([[0.0, -torch.inf, -torch.inf]])).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0


def test_gradients_of_the_bounds_are_finite_at_the_ends():
    world = Chain()
    x, _ = world.sample_data(16, Draws(16, "x"))
    for process in (Masked(6), Uniform(6), Uniform(6, "cosine")):
        for t in (1e-3, 1 - 1e-6, 1.0):
            net = world.network(process, 0, width=16, depth=1)
            loss = nelbo(net, x, full(t, 16), Draws(16, "u"))
            loss.backward()
            assert torch.isfinite(loss), (process, t)
            assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_a_mean_over_masks_is_the_same_in_parts():
    process = Masked(V)
    assert float(over_replaced(process, torch.ones(40), 8, 10)) == pytest.approx(
        40 / (80 * 0.999 * 0.5), rel=1e-4
    )
    gaps = torch.arange(6.0)
    whole = over_replaced(process, gaps, 2, 4)
    parts = [over_replaced(process, gaps[:1], 1, 4), over_replaced(process, gaps[1:], 1, 4)]
    assert float(whole) == pytest.approx(float(sum(parts) / 2))
