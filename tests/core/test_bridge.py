"""Bridges: weights that sum to one, exact marginals and posteriors, limits at both ends, and the
residual-shift table."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.bridge import I2SB, Bridge, Brownian, ResShift, Scaled, unconditional
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import KINDS, At, Prediction
from stillhouse.core.process import expand_to
from stillhouse.core.schedules import process_from_config

ALL = [Brownian(0.6), Brownian(), I2SB(), I2SB(0.05, 1.0), ResShift(), ResShift(1.0, 0.1, 0.95, 0.5, 6)]
FAST = settings(max_examples=25, deadline=None)
bridges = st.sampled_from(ALL)


def at(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@FAST
@given(bridges, st.floats(0.03, 0.97))
def test_derivatives(bridge, t):
    t = (math.floor(t * 90) + 0.5) / 90  # the middle of a cell of either table
    step = 1e-6
    for value, slope in (
        (bridge.alpha, bridge.dalpha),
        (bridge.sigma, bridge.dsigma),
        (bridge.eta, bridge.deta),
    ):
        finite = (value(at(t + step)) - value(at(t - step))) / (2 * step)
        torch.testing.assert_close(slope(at(t)), finite, atol=1e-7, rtol=1e-6)


@FAST
@given(bridges, st.floats(1e-4, 1 - 1e-4))
def test_time_has_three_inverses(bridge, t):
    for back in (
        bridge.time(bridge.log_snr(at(t))),
        bridge.time_of_ratio(bridge.ratio(at(t))),
        bridge.time_of_eta(bridge.eta(at(t))),
    ):
        torch.testing.assert_close(back, at(t), atol=1e-9, rtol=0)


@pytest.mark.parametrize("bridge", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_finite_and_noise_wins_steadily(bridge, dtype):
    t = torch.linspace(0, 1, 257, dtype=dtype)
    for f in (bridge.alpha, bridge.sigma, bridge.dalpha, bridge.dsigma, bridge.eta, bridge.deta):
        assert f(t).dtype == dtype and f(t).isfinite().all()
    assert (bridge.eta(t).diff() > 0).all() and (bridge.log_snr(t).diff() < 0).all()
    assert bridge.alpha(t[:1]).item() == 1 and bridge.sigma(t[:1]).item() == 0
    assert bridge.time(torch.tensor([math.inf, -math.inf], dtype=dtype)).tolist() == [0.0, 1.0]
    if not isinstance(bridge, ResShift):
        assert bridge.alpha(t[-1:]).item() == 0 and bridge.sigma(t[-1:]).item() == 0 and bridge.prior_std == 0


@pytest.mark.parametrize("bridge", ALL, ids=repr)
@pytest.mark.parametrize("kind", ["x0", "scaled", "eps", "velocity"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_every_view_is_finite_at_both_ends(bridge, kind, t):
    x = torch.ones(2, 3, dtype=torch.float64) * bridge.sigma(at(t))
    pred = Prediction(torch.full_like(x, 0.5), KINDS[kind](), At(bridge, at(t, t), x))
    assert all(view.isfinite().all() for view in (pred.x0, pred.eps, pred.velocity, pred.score))


def test_brownian_and_i2sb_in_numbers():
    half = at(0.5)
    assert Brownian(0.6).sigma(half).item() == pytest.approx(0.3) and Brownian(0.6).alpha(half).item() == 0.5
    for bridge in (I2SB(), I2SB(0.05, 1.0)):
        # the table of 1000 rates, mirrored at half time, as its authors sum it
        rate = (
            torch.linspace(bridge.beta_0**0.5, bridge.beta_1**0.5, 1000, dtype=torch.float64)[:500] ** 2
            / 1000
        )
        forward = torch.cat([rate, rate.flip(0)]).cumsum(0)
        backward = forward[-1] - forward
        t = torch.arange(1, 1001, dtype=torch.float64) / 1000
        torch.testing.assert_close(bridge.alpha(t), backward / forward[-1], atol=2e-3, rtol=0)
        torch.testing.assert_close(
            bridge.sigma(t)[:-1] ** 2, (forward * backward / forward[-1])[:-1], atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("bridge", ALL, ids=repr)
def test_marginal_is_that_of_many_small_steps(bridge):
    """A Brownian path in ``eta`` from the clean end, pulled to the other one where it is pinned, stopped
    half-way."""
    n, r_0, t = 40_000, 1.5, at(0.0, 0.2, 0.4, 0.7)
    generator, eta = torch.Generator().manual_seed(0), bridge.eta(t)
    r = torch.full((n,), r_0, dtype=torch.float64)
    for here, there in zip(eta, eta[1:], strict=False):
        z = torch.randn(n, generator=generator, dtype=torch.float64)
        if isinstance(bridge, ResShift):
            r = r - (there - here) * r_0 + bridge.kappa * (there - here).sqrt() * z
        else:
            r = (
                r * (1 - there) / (1 - here)
                + bridge.kappa * ((there - here) * (1 - there) / (1 - here)).sqrt() * z
            )
    std = bridge.sigma(t[-1:]).item()
    assert r.mean().item() == pytest.approx(r_0 * bridge.alpha(t[-1:]).item(), abs=5 * std / n**0.5)
    assert r.std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("bridge", ALL, ids=repr)
@pytest.mark.parametrize("t,s", [(1.0, 0.5), (0.8, 0.3), (0.4, 0.1)])
def test_posterior_is_bayes_rule_by_quadrature(bridge, t, s):
    """``q(r_s | r_0, r_t)`` is proportional to ``q(r_s | r_0) q(r_t | r_0, r_s)``, on a fine grid of
    ``r_s``."""
    here, there = bridge.eta(at(t)), bridge.eta(at(s))
    r_0, r_s = 1.2, torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    log = -0.5 * ((r_s - bridge.alpha(at(s)) * r_0) / bridge.sigma(at(s))) ** 2
    r_t = 0.0
    if isinstance(bridge, ResShift):
        r_t = -0.7
        log = log - 0.5 * (r_t - (r_s - (here - there) * r_0)) ** 2 / (bridge.kappa**2 * (here - there))
    elif t < 1:  # at the pinned end every path is at r_t = 0 and says nothing more about r_s
        r_t = -0.2
        scale = (1 - here) / (1 - there)
        log = log - 0.5 * (r_t - scale * r_s) ** 2 / (bridge.kappa**2 * scale * (here - there))
    p = (log - log.max()).exp()
    p = p / p.sum()
    mean, std = bridge.posterior(at(r_0)[:, None], at(r_t)[:, None], at(t), at(s))
    assert mean.item() == pytest.approx((p * r_s).sum().item(), abs=1e-8)
    assert std.item() == pytest.approx((p * (r_s - mean.item()) ** 2).sum().sqrt().item(), rel=1e-7)


@FAST
@given(bridges, st.floats(0.05, 1), st.floats(0.01, 0.99))
def test_posterior_keeps_the_marginals(bridge, t, share):
    t, s, r_0 = at(t), at(t * share), at(0.7)[:, None]
    zero = torch.zeros_like(r_0)
    mean, std = bridge.posterior(r_0, expand_to(bridge.alpha(t), r_0) * r_0, t, s)
    torch.testing.assert_close(mean, expand_to(bridge.alpha(s), r_0) * r_0, atol=1e-12, rtol=0)
    slope = bridge.posterior(zero, zero + 1, t, s)[0]  # what is kept of the noise of the state
    torch.testing.assert_close(
        (slope * bridge.sigma(t)) ** 2 + std**2, (bridge.sigma(s) ** 2)[:, None], atol=1e-12, rtol=0
    )


def test_residual_shift_table_is_the_published_one():
    bridge = ResShift()
    root = bridge.eta(torch.arange(1, 16, dtype=torch.float64) / 15).sqrt()
    expected = [0.02 * (0.99 / 0.02) ** ((i / 14) ** 0.3) for i in range(15)]
    torch.testing.assert_close(root, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
    assert [round(v, 4) for v in root[:3].tolist()] == [0.02, 0.1172, 0.1763]
    assert [round(v, 4) for v in root[-2:].tolist()] == [0.9086, 0.99]
    assert bridge.sigma(at(1 / 15)).item() == pytest.approx(0.04) and bridge.prior_std == pytest.approx(1.98)


def test_the_deterministic_step_is_ddim_with_a_shifted_mean():
    """One DDIM step of the residual is the published ``x_s = k D + m x_t + j y``, and it keeps the path of
    the true ``x_0``."""
    from stillhouse.core.flowmap import ddim_step

    bridge, generator = ResShift(), torch.Generator().manual_seed(3)
    clean, y, x = (torch.randn(1, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    times, cond = torch.arange(16, dtype=torch.float64) / 15, {"image": y}
    for t, s in zip(times[1:], times, strict=False):
        here, there = bridge.eta(t[None]), bridge.eta(s[None])
        m, j = (there / here).sqrt(), there - (there * here).sqrt()
        k = 1 - there + (there * here).sqrt() - m
        pred = Prediction(
            bridge.to_state(clean, cond), KINDS["x0"](), At(bridge, t[None], bridge.to_state(x, cond))
        )
        torch.testing.assert_close(
            bridge.to_data(ddim_step(pred, s[None]), cond), k * clean + m * x + j * y, atol=1e-12, rtol=0
        )
        torch.testing.assert_close(k + m * (1 - here), 1 - there, atol=1e-12, rtol=0)
        torch.testing.assert_close(j + m * here, there, atol=1e-12, rtol=0)
        torch.testing.assert_close(m * here.sqrt(), there.sqrt(), atol=1e-12, rtol=0)


def test_states_are_residuals():
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for bridge in ALL:
        torch.testing.assert_close(bridge.to_data(bridge.to_state(x, {"image": y}), {"image": y}), x)
    with pytest.raises(StillhouseError, match="degraded sample"):
        Brownian().to_state(x, None)


def test_scaled_input_is_of_unit_size():
    bridge, x = ResShift(), torch.ones(1, 2)
    x_in, t_in = Scaled().inputs(At(bridge, torch.ones(1), x))
    assert x_in[0, 0].item() == pytest.approx((1 + 4 * 0.99**2) ** -0.5) and t_in.item() == 1


@pytest.mark.parametrize("bridge", ALL, ids=repr)
def test_config_makes_it_again(bridge):
    again = process_from_config(bridge.config())
    assert again == bridge and isinstance(again, Bridge)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Brownian(0.0),
        lambda: I2SB(0.3, 0.1),
        lambda: ResShift(steps=1),
        lambda: ResShift(kappa=-1),
        lambda: ResShift(first=0.0),
        lambda: ResShift(kappa=1.0, first=0.995, last=0.99),
        lambda: ResShift(kappa=1.0, first=0.99, last=0.99),
        lambda: I2SB(0.0, 0.1),
        lambda: I2SB(0.1, 0.1),
        lambda: ResShift(last=1),
    ],
)
def test_bad_numbers_are_refused(make):
    with pytest.raises(StillhouseError, match="not"):
        make()


def test_the_least_table_has_two_levels():
    assert ResShift(steps=2).table.tolist() == pytest.approx([0, 0.02, 0.99])


@pytest.mark.parametrize("bridge", ALL, ids=repr)
def test_times_of_any_level_lie_between_the_ends(bridge):
    times = bridge.time(at(-math.inf, -60.0, -8.0, 8.0, 60.0, math.inf))
    assert times.isfinite().all() and float(times.min()) >= 0 and float(times.max()) <= 1
    assert (times[:-1] >= times[1:]).all()


def test_a_network_of_states_alone_is_given_the_state_and_no_condition():
    class Net(torch.nn.Module):
        def forward(self, x, t, cond, s=None):
            assert cond is None
            return 2 * x + t[:, None] + (0 if s is None else s[:, None])

    residual, y = at(1.0, -2.0)[None], at(0.5, 3.0)[None]
    made = unconditional(Net(), residual, at(0.3), {"image": y})
    torch.testing.assert_close(made, 2 * (residual + y) + 0.3 - y)
    made = unconditional(Net(), residual, at(0.3), {"image": y}, s=at(0.1))
    torch.testing.assert_close(made, 2 * (residual + y) + 0.4 - y)
    for none in (None, {"label": y}, y):
        with pytest.raises(StillhouseError, match="starts from a degraded sample"):
            unconditional(Net(), residual, at(0.3), none)


def test_the_last_cell_of_a_table_has_its_inverse():
    bridge = ResShift()
    t = at(14.5 / 15)
    low, high = bridge.table[14:]
    assert float(bridge.eta(t)) == pytest.approx(float((low + high) / 2) ** 2)
    assert float(bridge.time_of_eta(bridge.eta(t))) == pytest.approx(14.5 / 15)
