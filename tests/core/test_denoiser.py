"""The four views of one prediction: round trips over processes, kinds, shapes and times, and what happens at
the ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.denoiser import Converted, Denoiser, ExactDenoiser, count_calls
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import ddim_step, jump, predict_x0
from stillhouse.core.prediction import EDM, KINDS, At, Prediction
from stillhouse.core.process import Process
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP, Trig

ALL = [Flow(), Trig(), Cosine(), LinearVP(), ScaledLinearVP(), ScaledLinearVP(zero_terminal_snr=True), VE()]
MADE = [
    *(kind for kind in KINDS if kind != "logits"),
    EDM(sigma_data=1.3),
    EDM(sigma_data=0.5, boundary=0.002),
]
FAST = settings(max_examples=60, deadline=None)
processes, kinds = st.sampled_from(ALL), st.sampled_from(MADE)
shapes = st.sampled_from([(1,), (4,), (2, 3), (1, 4, 4), (2, 2, 2, 2)])


def kind_of(kind):
    return KINDS[kind]() if isinstance(kind, str) else kind


def pair(shape, rows=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(rows, *shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(2)]


def told(process: Process, kind, x0, eps, t) -> Prediction:
    """The prediction of a network that says the truth."""
    kind, at = kind_of(kind), At(process, t, process.noise(x0, t, eps))
    return Prediction(kind.target(x0, eps, at), kind, at)


@FAST
@given(processes, kinds, shapes, st.floats(0.03, 0.97), st.floats(0.03, 0.97))
def test_views_round_trip(process, kind, shape, first, second):
    (x0, eps), t = pair(shape), torch.tensor([first, second], dtype=torch.float64)
    if process.name == "ve":
        t = 0.3 + 0.7 * t  # below, sigma^7 leaves too few digits of the noise beside the data
    pred = told(process, kind, x0, eps, t)
    torch.testing.assert_close(pred.x0, x0, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(pred.eps, eps, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(pred.velocity, process.velocity(x0, t, eps), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(pred.score, process.score(t, eps), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ddim_step(pred, t), pred.at.x, atol=1e-6, rtol=1e-6)


@FAST
@given(processes, kinds, shapes)
def test_views_round_trip_in_float32(process, kind, shape):
    (x0, eps), t = pair(shape, dtype=torch.float32), torch.tensor([0.4, 0.6])
    pred = told(process, kind, x0, eps, t)
    assert pred.x0.dtype == pred.velocity.dtype == torch.float32
    torch.testing.assert_close(pred.x0, x0, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(pred.eps, eps, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("kind", MADE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_view_is_finite_at_both_ends(process, kind, dtype):
    (x, raw), t = pair((3,), dtype=dtype), torch.tensor([0.0, 1.0], dtype=dtype)
    pred = Prediction(raw, kind_of(kind), At(process, t, process.noise(x, t, raw)))
    for view in (
        pred.x0,
        pred.eps,
        pred.velocity,
        pred.score,
        pred.kind.target(x, raw, pred.at),
        ddim_step(pred, t),
    ):
        assert view.isfinite().all()


@pytest.mark.parametrize(
    "process", [Flow(), Trig(), LinearVP(), ScaledLinearVP(), VE()], ids=lambda p: p.name
)
@pytest.mark.parametrize(
    "kind", [k for k in MADE if k not in ("x0", "scaled") and not getattr(k, "boundary", 0)], ids=str
)
def test_clean_state_is_its_own_estimate(process, kind):
    (x, raw), t = pair((3,)), torch.zeros(2, dtype=torch.float64)
    pred = Prediction(raw, kind_of(kind), At(process, t, x))
    torch.testing.assert_close(pred.x0, x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("process", [Flow(), Trig()], ids=lambda p: p.name)
def test_the_truth_at_pure_noise(process, kind):
    (x0, eps), t = pair((3,)), torch.ones(2, dtype=torch.float64)
    pred = told(process, kind, x0, eps, t)
    torch.testing.assert_close(pred.x0, x0, atol=1e-12, rtol=0)
    torch.testing.assert_close(pred.eps, eps, atol=1e-12, rtol=0)


def test_flow_velocity_is_noise_minus_data():
    (x0, eps), t = pair((3,)), torch.tensor([0.25, 0.75], dtype=torch.float64)
    torch.testing.assert_close(told(Flow(), "v", x0, eps, t).velocity, eps - x0, atol=1e-12, rtol=0)


def test_edm_is_table_1():
    process, d = VE(), 0.5
    (x, raw), t = pair((3,)), torch.tensor([0.5, 0.9], dtype=torch.float64)
    s = process.sigma(t)[:, None]
    seen = {}

    def call(net, x_in, t_in, cond):
        seen.update(x=x_in, t=t_in)
        return raw

    pred = Denoiser(torch.nn.Identity(), process, "edm", call=call)(x, t)
    torch.testing.assert_close(seen["x"], x / (s**2 + d**2).sqrt())
    torch.testing.assert_close(seen["t"], process.sigma(t).log() / 4)
    torch.testing.assert_close(pred.x0, d**2 / (s**2 + d**2) * x + s * d / (s**2 + d**2).sqrt() * raw)


@pytest.mark.parametrize("process", [VE(), Flow(), Trig()], ids=lambda p: p.name)
def test_edm_boundary_is_the_identity_there(process):
    kind, t = EDM(0.5, boundary=0.01), process.time_of_ratio(torch.tensor([0.01, 0.01], dtype=torch.float64))
    x, raw = pair((3,))
    pred = Prediction(raw, kind, At(process, t, x))
    torch.testing.assert_close(pred.x0, x / process.alpha(t)[:, None], atol=1e-9, rtol=0)


class Line(ExactDenoiser):
    """The posterior mean of a Gaussian: affine in the state."""

    def mean(self, x_t, t, cond):
        a, s = (f(t).to(x_t)[:, None] for f in (self.process.alpha, self.process.sigma))
        return 0.3 + 0.25 * a / (0.25 * a**2 + s**2) * (x_t - 0.3 * a)


@FAST
@given(processes, processes, st.floats(0.05, 0.95))
def test_converted_sees_the_same_data(inner, outer, t):
    t = torch.full((2,), t, dtype=torch.float64)
    if not inner.log_snr(torch.ones(1)) < outer.log_snr(t)[0] < inner.log_snr(torch.full((1,), inner.t_min)):
        return
    x = outer.noise(*pair((3,))[:1], t, pair((3,))[1])
    pred, direct = Converted(Line(inner), outer)(x, t), Line(outer)(x, t)
    torch.testing.assert_close(pred.x0, direct.x0, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(pred.eps, direct.eps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ddim_step(pred, t), x, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("inner", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("outer", ALL, ids=lambda p: p.name)
def test_converted_is_finite_at_both_ends(inner, outer):
    pred = Converted(Line(inner), outer)(pair((3,))[0], torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert all(v.isfinite().all() for v in (pred.x0, pred.eps, pred.velocity, pred.score))


def test_views_are_computed_once():
    pred = Line(Flow())(torch.zeros(2, 3), torch.full((2,), 0.5))
    assert pred.eps is pred.eps and pred.velocity is pred.velocity


@pytest.mark.parametrize(
    "x_dtype, heard",
    [(torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_network_hears_times_in_one_precision(x_dtype, heard):
    """A walk's times are float64; a two-time network in float32 must not be handed one of each."""
    types = []

    def call(net, x, t, cond, **extra):
        types.extend([t.dtype, *(v.dtype for v in extra.values())])
        return x

    model = Denoiser(torch.nn.Identity(), Flow(), call=call, two_time=True)
    t = torch.full((2,), 0.7, dtype=torch.float64)
    pred = model(torch.zeros(2, 3, dtype=x_dtype), t, s=t / 2, guidance=t)
    assert types == [heard] * 3 and pred.x0.dtype == x_dtype


def test_jump_lands_and_stays():
    process, (x, _) = Flow(), pair((3,))
    t = torch.tensor([0.5, 0.9], dtype=torch.float64)
    model = Line(process)
    torch.testing.assert_close(jump(model, x, t, t), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        jump(model, x, t, torch.zeros_like(t)), predict_x0(model, x, t), atol=1e-12, rtol=0
    )
    asked = []

    def call(net, x, t, cond, s):
        asked.append(s)
        return x

    two = Denoiser(torch.nn.Identity(), process, call=call, two_time=True)
    jump(two, x, t, t / 2)
    predict_x0(two, x, t)
    two(x, t)
    assert [a.tolist() for a in asked] == [(t / 2).tolist(), [0.0, 0.0], t.tolist()]


def test_counts_copies_and_refusals():
    model = Denoiser(torch.nn.Linear(3, 3), Flow(), call=lambda net, x, t, c: net(x)).requires_grad_(False)
    other = Converted(model, VE())
    with count_calls(other, model) as nfe:
        other(torch.zeros(2, 3), torch.ones(2))
        model(torch.zeros(2, 3), torch.ones(2))
        assert nfe() == 2
    twin = model.copy()
    assert twin.calls == 0 and twin.net.weight.requires_grad and twin.net.weight is not model.net.weight
    with pytest.raises(StillhouseError, match="no weights"):
        Line(Flow()).copy()
    with pytest.raises(StillhouseError, match="did you mean 'velocity'"):
        Denoiser(torch.nn.Identity(), Flow(), "velocty")
