"""Token processes: schedules, steps against Bayes' rule by enumeration, conversions, and drawing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.discrete import Masked, Uniform, choose, one_hot
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import KINDS, At
from stillhouse.core.schedules import Flow, process_from_config
from stillhouse.core.token_prediction import Logits, TokenPrediction, of_words

V = 4
PROCESSES = [cls(V, schedule) for cls in (Masked, Uniform) for schedule in ("log_linear", "cosine")]


def full(value: float, n: int = 1) -> torch.Tensor:
    return torch.full((n,), value, dtype=torch.float64)


def transition(process, t: float, s: float = 0.0) -> torch.Tensor:
    """``q(x_t = j | x_s = i)`` as a table (states, states), written down from the definition alone."""
    keep = float(process.alpha(full(t)) / process.alpha(full(s)))
    n = process.states
    if isinstance(process, Masked):
        table = keep * torch.eye(n, dtype=torch.float64)
        table[:, -1] += 1 - keep
        return table
    return keep * torch.eye(n, dtype=torch.float64) + (1 - keep) / n


def distributions(n: int, seed: int = 0) -> torch.Tensor:
    return (
        torch.randn(n, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        .mul(2)
        .log_softmax(-1)
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.schedule}")
@pytest.mark.parametrize("t,s", [(1.0, 0.5), (0.7, 0.3), (0.4, 0.0), (0.02, 0.01), (1.0, 0.0)])
def test_the_reverse_step_is_bayes_rule(process, t, s):
    """Enumerated: ``q(x_s | z, p) ~ sum_0 p(x_0) q(x_s | x_0) q(z | x_s)``, for every state ``z``, one-hot
    ``p`` and others."""
    p = torch.cat([one_hot(torch.arange(V)[None], V)[0], distributions(3)])
    up, on = transition(process, s), transition(process, t, s)
    for z in range(process.states):
        expected = (p.exp() @ up[:V]) * on[:, z]
        possible = expected.sum(1) > 0
        if isinstance(process, Masked) and z < V:
            possible &= (
                torch.arange(len(p)) == z
            )  # what is visible is true: only its own one-hot belongs with it
        x_t = torch.full((1, len(p)), z)
        step = process.posterior(p[None], x_t, full(t), full(s))[0].exp()
        expected = expected / expected.sum(1, keepdim=True)
        torch.testing.assert_close(step[possible], expected[possible], atol=1e-12, rtol=0)
        torch.testing.assert_close(step.sum(1), torch.ones(len(p), dtype=torch.float64))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.schedule}")
def test_renoised_is_the_marginal(process):
    p = distributions(5)
    for s in (0.0, 0.3, 1.0):
        expected = p.exp() @ transition(process, s)[:V]
        torch.testing.assert_close(process.renoised(p[None], full(s))[0].exp(), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.schedule}")
def test_two_steps_are_one(process):
    """Chapman-Kolmogorov backwards: from t to s through a middle, with the truth known, is from t to s."""
    x_0, z = torch.tensor([[0, 1, 2, 3]]), process.states - 1
    x_t, known = torch.full((1, 4), z), one_hot(torch.tensor([[0, 1, 2, 3]]), V)
    if isinstance(process, Uniform):
        known = process.excluding(known, x_t, full(1.0))  # one-hot is one-hot
        torch.testing.assert_close(known.exp(), one_hot(x_0, V).exp())
    first = process.posterior(known, x_t, full(0.8), full(0.5)).exp()
    ways = [
        process.posterior(known, torch.full((1, 4), y), full(0.5), full(0.2)).exp()
        for y in range(process.states)
    ]
    through = sum(first[..., y, None] * torch.nan_to_num(ways[y]) for y in range(process.states))
    torch.testing.assert_close(
        through, process.posterior(known, x_t, full(0.8), full(0.2)).exp(), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.schedule}")
def test_the_analytic_step_of_score_entropy_models_is_the_ancestral_one(process):
    """Tweedie: ratios ``r_j = p_t(z -> j) / p_t(z)``, taken back by ``exp(-Q)`` and forward by ``exp(Q)``
    (arXiv 2310.16834, eq. 19)."""
    t, s, p = 0.6, 0.35, distributions(3)
    keep = float(process.alpha(full(t)) / process.alpha(full(s)))
    n = process.states
    table = transition(process, t, s)
    for z in [n - 1] if isinstance(process, Masked) else range(n):
        marginal = p.exp() @ transition(process, t)[:V]
        ratio = marginal / marginal[:, z, None]
        back = ratio @ torch.linalg.inv(table)  # row vectors: the marginal of t taken back to s, over p_t(z)
        expected = back * table[:, z]
        assert 0 < keep < 1
        step = process.posterior(p[None], torch.full((1, 3), z), full(t), full(s))[0].exp()
        torch.testing.assert_close(step, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.schedule}")
def test_schedules(process):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(process.alpha(t) + process.sigma(t), torch.ones_like(t))
    assert process.alpha(t[:1]) == 1 and (process.alpha(t).diff() < 0).all()
    assert process.alpha(t[-1:]).item() == pytest.approx(
        1e-3 if process.schedule == "log_linear" else 0.0, abs=1e-12
    )
    inner = t[1:-1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(process.alpha(inner).sum(), inner)
    torch.testing.assert_close(process.dalpha(inner), slope)
    torch.testing.assert_close(process.time(process.alpha(inner).log() - process.sigma(inner).log()), inner)
    if process.schedule == "cosine":
        torch.testing.assert_close(process.alpha(t), 1 - torch.cos(math.pi / 2 * (1 - t)))
    assert process_from_config(process.config()) == process


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.schedule}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_stay_what_they_are_at_both_ends(process, dtype):
    p = torch.cat([one_hot(torch.arange(V)[None], V)[0], distributions(2)])[None].to(dtype)
    for z in range(process.states):
        x_t = torch.full((1, 6), z)
        for t, s in [(1.0, 1 - 1e-7), (1.0, 0.0), (1e-3, 0.0), (1e-9, 1e-12), (1e-6, 0.0), (0.5, 0.5)]:
            fair = process.posterior(p, x_t, full(t).to(dtype), full(s).to(dtype))
            likely = (
                fair[:, V:] if isinstance(process, Masked) else fair[:, [z % V, 4, 5]]
            )  # what can have happened
            assert not likely.isnan().any()
            torch.testing.assert_close(
                likely.exp().sum(-1), torch.ones_like(likely[..., 0]), atol=1e-6, rtol=0
            )


def test_own_evidence_comes_and_goes():
    process = Uniform(V)
    x_t, t = torch.tensor([[0, 1, 2]]), full(0.4)
    leave_one_out = distributions(3)[None]
    whole = process.including(leave_one_out, x_t, t)
    torch.testing.assert_close(process.excluding(whole, x_t, t), leave_one_out, atol=1e-12, rtol=0)
    by_bayes = leave_one_out.exp() * transition(process, 0.4)[:, x_t[0]].T
    torch.testing.assert_close(whole.exp(), by_bayes / by_bayes.sum(-1, keepdim=True), atol=1e-12, rtol=0)
    torch.testing.assert_close(process.posterior(leave_one_out, x_t, t, full(0.0)), whole, atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PROCESSES),
    st.lists(st.floats(-20, 20), min_size=V, max_size=V),
    st.integers(0, V - 1),
    st.floats(1e-3, 1.0),
    st.floats(0.0, 1.0),
)
def test_round_trips(process, logits, z, t, share):
    """The posterior is a distribution whose average over what is seen gives the marginal back; conversions
    undo each other."""
    p, s = torch.tensor([[logits]], dtype=torch.float64).log_softmax(-1), t * share
    x_t = torch.full((1, 1), z)
    marginal = process.renoised(p, full(t)).exp()[0, 0]
    back = sum(
        marginal[y] * process.posterior(p, torch.full((1, 1), y), full(t), full(s)).exp()[0, 0]
        for y in ([process.mask] if isinstance(process, Masked) else range(V))
    )
    expected = process.renoised(p, full(s)).exp()[0, 0]
    if isinstance(process, Masked):  # visible tokens stay: add them
        back = back + torch.cat([marginal[:V], marginal.new_zeros(1)])
    torch.testing.assert_close(back, expected, atol=1e-10, rtol=0)
    there = process.excluding(process.including(p, x_t, full(t)), x_t, full(t))
    torch.testing.assert_close(there.exp(), p.exp(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.name}-{p.schedule}")
def test_noising_has_the_right_shares_and_only_ever_grows(process):
    n, t = 40000, 0.6
    x = torch.full((n, 2), 1)
    u = Draws(n, "u").uniform(0, 1, 2, dtype=torch.float64)
    x_t = process.noise(x, full(t, n), u)
    assert x_t.dtype == torch.int64
    expected = transition(process, t)[1]
    counts = torch.bincount(x_t.flatten(), minlength=process.states).double()
    held = expected > 0
    chi = ((counts - 2 * n * expected) ** 2)[held] / (2 * n * expected[held])
    assert counts[~held].sum() == 0 and chi.sum() < 25  # 3 degrees of freedom at most
    bits = [process.replaced(full(v, n), u) for v in (0.2, 0.6, 0.9)]
    assert not (bits[0] & ~bits[1]).any() and not (bits[1] & ~bits[2]).any()
    assert torch.equal(process.noise(x, full(0.0, n), u), x)


def test_a_time_for_every_token():
    process, n = Masked(V), 4000
    t = torch.tensor([[0.1, 0.9]], dtype=torch.float64).expand(n, 2)
    x_t = process.noise(
        torch.zeros(n, 2, dtype=torch.long), t, Draws(n, "u").uniform(0, 1, 2, dtype=torch.float64)
    )
    shares = (x_t == V).double().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.9], dtype=torch.float64), atol=0.03, rtol=0)


def test_walks_start_from_masks_or_from_anything():
    assert torch.equal(Masked(V).start(Draws(3, "a"), (5,)), torch.full((3, 5), V))
    x = Uniform(V).start(Draws(2000, "a"), (5,), 0.7)
    counts = torch.bincount(x.flatten(), minlength=V).double()
    assert x.dtype == torch.int64 and ((counts - 2500) ** 2 / 2500).sum() < 20


def test_subs_rules():
    process, x = Masked(V), torch.tensor([[2, V, 0]])
    for width in (V, V + 1):  # with a column for the mask, however loud, and without
        raw = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0))
        raw[..., V:] = 1e4
        pred = TokenPrediction(raw, Logits(), At(process, full(0.5), x))
        assert pred.log_probs.shape == (1, 3, V) and pred.log_probs.dtype == torch.float32
        assert pred.log_probs[0, 0].exp().tolist() == [0, 0, 1, 0] and pred.log_probs[
            0, 2
        ].exp().tolist() == [1, 0, 0, 0]
        torch.testing.assert_close(pred.log_probs[0, 1], raw[0, 1, :V].log_softmax(-1))
        assert pred.x0.tolist() == [[2, int(raw[0, 1, :V].argmax()), 0]]
    half = TokenPrediction(raw.half(), Logits(), At(process, full(0.5), x))
    assert half.log_probs.dtype == torch.float32


def test_a_network_of_logits_is_a_denoiser():
    net = Denoiser(
        torch.nn.Identity(), Masked(V), "logits", call=lambda _net, x, _t, _c: torch.zeros(*x.shape, V + 1)
    )
    pred = net(torch.tensor([[V, 1]]), full(0.5))
    torch.testing.assert_close(of_words(pred).log_probs[0, 0].exp(), torch.full((V,), 1 / V))
    assert KINDS["logits"] is Logits and torch.equal(
        pred.with_x0(torch.tensor([[3, 1]])).x0, torch.tensor([[3, 1]])
    )
    with pytest.raises(StillhouseError, match="log_probs"):
        _ = pred.eps


def test_drawing_follows_the_probabilities_and_never_takes_the_impossible():
    p = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    drawn = choose(p.log().expand(50000, 6), Draws(50000, "u").uniform(dtype=torch.float64))
    counts = torch.bincount(drawn, minlength=6).double()
    assert counts[p == 0].sum() == 0
    assert (((counts - 50000 * p) ** 2)[p > 0] / (50000 * p[p > 0])).sum() < 20
    ends = choose(p.log().expand(2, 6), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert ends.tolist() == [1, 4]


def test_float64_keeps_the_tails():
    """A token of probability 1e-9 is drawn where the number says so; float32 numbers would never say so."""
    p = torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64).log()
    assert choose(p, torch.tensor(0.9e-9, dtype=torch.float64)).item() == 0
    assert choose(p, torch.tensor(1.1e-9, dtype=torch.float64)).item() == 1


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: Masked(1), "at least two tokens, not 1"),
        (lambda: Masked(V, "square"), "log_linear, cosine, not 'square'"),
        (lambda: Uniform(V, eps=1.0), "must lie in"),
        (lambda: process_from_config({"name": "masked", "words": 3}), "can't be made"),
        (
            lambda: Masked(V).read(torch.zeros(1, 2, V + 2), torch.zeros(1, 2, dtype=torch.long)),
            "can't have the shape",
        ),
    ],
)
def test_bad_input_is_told(make, words):
    with pytest.raises(StillhouseError, match=words):
        make()


def test_what_is_not_about_tokens_is_refused():
    with pytest.raises(StillhouseError, match="works on tokens"):
        of_words(
            Denoiser(torch.nn.Identity(), Flow(), "x0", call=lambda _n, x, _t, _c: x)(
                torch.zeros(1, 2), full(0.5)
            )
        )


def test_times_of_any_level_lie_between_the_ends():
    for process in PROCESSES:
        times = process.time(torch.tensor([-math.inf, -60.0, 0.0, 60.0, math.inf], dtype=torch.float64))
        assert times.isfinite().all() and float(times.min()) >= 0 and float(times.max()) <= 1
        assert (times[:-1] >= times[1:]).all()


def test_a_number_that_is_rounded_up_to_one_is_the_last_token():
    assert Uniform(V).instead(torch.tensor([[0.0, 0.999, 1.0, -1e-9]])).tolist() == [[0, V - 1, V - 1, 0]]


def test_of_no_probability_at_all_some_index_is_drawn():
    made = choose(torch.full((3, 4), -math.inf), torch.tensor([0.0, 0.5, 0.99]))
    assert ((made >= 0) & (made < 4)).all()
