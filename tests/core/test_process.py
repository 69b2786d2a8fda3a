"""Processes: their derivatives, inverses, limits and conversions, over all of them and over times drawn by
hypothesis."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.process import PROCESSES, convert, expand_to
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP, Trig, process_from_config

ALL = [
    Flow(),
    Trig(),
    Cosine(),
    Cosine(clip=5.0),
    LinearVP(),
    ScaledLinearVP(),
    ScaledLinearVP(zero_terminal_snr=True),
    VE(),
    VE(0.01, 50.0, 3.0),
]
TEST_TIMES = st.floats(0.02, 0.98)
FAST = settings(max_examples=25, deadline=None)
processes = st.sampled_from(ALL)


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@FAST
@given(processes, TEST_TIMES)
def test_derivatives(process, t):
    # Stable Diffusion's angle is linear between table steps: stay in the middle of one
    t = (math.floor(t * 1000) + 0.5) / 1000
    step = 1e-6
    for value, slope in ((process.alpha, process.dalpha), (process.sigma, process.dsigma)):
        finite = (value(at(t + step)) - value(at(t - step))) / (2 * step)
        torch.testing.assert_close(slope(at(t)), finite, atol=1e-7, rtol=1e-6)


@FAST
@given(processes, st.floats(0, 1))
def test_time_inverts_log_snr(process, t):
    if 0 < t < 1e-6:
        t = 0.0
    back = process.time(process.log_snr(at(t)))
    torch.testing.assert_close(back, at(t), atol=1e-9, rtol=0)
    ratio = process.time_of_ratio(process.ratio(at(t)))
    torch.testing.assert_close(ratio, at(t), atol=1e-9, rtol=0)


@FAST
@given(processes, TEST_TIMES)
def test_time_inverts_log_snr_in_float32(process, t):
    single = at(t).float()
    back = process.time(process.log_snr(single))
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, single, atol=2e-5, rtol=0)


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ends_are_finite_and_monotone(process, dtype):
    t = torch.linspace(0, 1, 257, dtype=torch.float64).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for f in (process.alpha, process.sigma, process.dalpha, process.dsigma):
        assert f(t).dtype == wide and f(t).isfinite().all()
    # alpha never rises, sigma never falls, noise wins steadily
    assert (process.alpha(t).diff() <= 1e-7).all() and (process.sigma(t).diff() >= -1e-7).all()
    assert (process.log_snr(t.unique()).diff() < 0).all()
    assert process.time(torch.tensor([math.inf, -math.inf])).tolist() == [0.0, 1.0]
    noise = (
        math.exp(-process.clip) if isinstance(process, Cosine) else 0.0
    )  # its log-SNR is clipped, so that a little noise is left
    assert float(process.sigma(t[:1])) == pytest.approx(noise, rel=1e-3, abs=1e-12)
    assert float(process.alpha(t[:1])) == pytest.approx((1 - noise**2) ** 0.5, abs=1e-6)


@pytest.mark.parametrize(
    "process", [Flow(), Trig(), ScaledLinearVP(zero_terminal_snr=True)], ids=lambda p: p.name
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_signal_at_all_where_there_should_be_none(process, dtype):
    one = torch.ones(1, dtype=dtype)
    assert (
        process.alpha(one).item() == 0
        and process.log_snr(one).item() == -math.inf
        and process.sigma(one).item() == 1
    )


@pytest.mark.parametrize(
    "process",
    [p for p in ALL if p.name in ("trig", "cosine", "linear_vp", "scaled_linear_vp")],
    ids=lambda p: p.name,
)
def test_variance_is_preserved(process):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(
        process.alpha(t) ** 2 + process.sigma(t) ** 2, torch.ones_like(t), atol=1e-12, rtol=0
    )


def test_cosine_ends_at_its_clip():
    ends = Cosine(clip=7.0).log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([7.0, -7.0], dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("schedule, power", [("scaled_linear", 2.0), ("linear", 1.0)])
def test_stable_diffusion_table_is_that_of_diffusers(zero, schedule, power):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule=schedule, rescale_betas_zero_snr=zero
    )
    process = ScaledLinearVP(zero_terminal_snr=zero, power=power)
    t = process.time_of_index(torch.arange(1000, dtype=torch.float64))
    torch.testing.assert_close(process.alpha(t) ** 2, scheduler.alphas_cumprod.double(), atol=2e-6, rtol=0)
    torch.testing.assert_close(
        process.index_of_time(t), torch.arange(1000, dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_ve_is_edm():
    process = VE()
    t = torch.linspace(1, process.t_min, 18, dtype=torch.float64)
    i = torch.arange(18, dtype=torch.float64) / 17
    expected = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(process.sigma(t), expected, atol=1e-10, rtol=1e-10)


@FAST
@given(processes, processes, TEST_TIMES, st.sampled_from([(1,), (3,), (2, 3, 3)]))
def test_convert_round_trip(source, target, t, shape):
    span = target.log_snr(torch.tensor([1.0, target.t_min], dtype=torch.float64))
    level = source.log_snr(at(t))
    if not span[0] < level < span[1]:
        return
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved, there = convert(x, at(t), source, target)
    torch.testing.assert_close(target.log_snr(there), level, atol=1e-7, rtol=1e-7)
    # the same state: x / alpha is what both see
    torch.testing.assert_close(moved / target.alpha(there), x / source.alpha(at(t)), atol=1e-7, rtol=1e-7)
    back, again = convert(moved, there, target, source)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(again, at(t), atol=1e-9, rtol=0)


@pytest.mark.parametrize("source", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("target", ALL, ids=lambda p: p.name)
def test_convert_is_finite_at_both_ends_and_keeps_noise_noise(source, target):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = torch.ones(2, 2, dtype=torch.float64) * torch.tensor([[1.0], [source.prior_std]])
    moved, there = convert(x, t, source, target)
    assert moved.isfinite().all() and 0 <= there.min() <= there.max() <= 1
    # x of one standard deviation stays at one standard deviation, wherever it lands
    sizes = torch.hypot(target.alpha(there), target.sigma(there))[:, None]
    torch.testing.assert_close(
        moved / sizes, x / torch.hypot(source.alpha(t), source.sigma(t))[:, None], atol=1e-12, rtol=1e-12
    )


@FAST
@given(processes, TEST_TIMES)
def test_noise_and_velocity_are_one_line(process, t):
    g = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(1, 3, generator=g, dtype=torch.float64) for _ in range(2))
    t = (math.floor(t * 1000) + 0.5) / 1000
    finite = (process.noise(x, at(t + 1e-6), eps) - process.noise(x, at(t - 1e-6), eps)) / 2e-6
    torch.testing.assert_close(process.velocity(x, at(t), eps), finite, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(process.score(at(t), eps) * process.sigma(at(t)), -eps)


def test_like_shapes_and_types():
    x = torch.zeros(2, 3, 4, dtype=torch.bfloat16)
    out = expand_to(torch.tensor([1.0, 2.0], dtype=torch.float64), x)
    assert out.shape == (2, 1, 1) and out.dtype == torch.bfloat16


@pytest.mark.parametrize("process", ALL, ids=lambda p: p.name)
def test_config_round_trip(process):
    assert process_from_config(process.config()) == process
    assert process_from_config(process.name) == PROCESSES[process.name]()


@pytest.mark.parametrize("bad", ["flwo", {"name": "ve", "sigma": 3}, {}])
def test_refuses(bad):
    with pytest.raises(StillhouseError):
        process_from_config(bad)


def test_a_walk_starts_from_noise_of_its_level():
    eps = Draws(3, "start").normal(2, dtype=torch.float64)
    for process, level in ((Flow(), 0.4), (VE(), 80 * 0.4**7), (Trig(), math.sin(0.2 * math.pi))):
        made = process.start(Draws(3, "start"), (2,), 0.4, dtype=torch.float64)
        torch.testing.assert_close(made, level * eps)
    assert torch.equal(VE().start(Draws(3, "start"), (2,), dtype=torch.float64), 80 * eps)
    other = VE().start(Draws(3, "start"), (2,), 0.4, 3.0, torch.float64)
    assert torch.equal(other, 3 * eps) and VE().prior_std == 80 and Flow().prior_std == 1
    assert Flow().start(Draws(3, "start"), (2,)).dtype == torch.float32


def test_a_score_is_the_noise_over_its_level():
    eps = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(Flow().score(at(0.4), eps), -eps / 0.4)


def test_coefficients_in_numbers():
    t = at(0.3)
    beta, log = 0.1 + 0.3 * 19.9, -(0.3**2) * 19.9 / 4 - 0.3 * 0.1 / 2
    alpha = math.exp(log)
    sigma = math.sqrt(1 - alpha**2)
    linear = LinearVP()
    for made, expected in (
        (linear.alpha(t), alpha),
        (linear.sigma(t), sigma),
        (linear.dalpha(t), -beta / 2 * alpha),
        (linear.dsigma(t), beta * alpha**2 / 2 / sigma),
        (linear.log_snr(t), math.log(alpha / sigma)),
        (linear.ratio(t), sigma / alpha),
        (Trig().alpha(t), math.cos(0.15 * math.pi)),
        (Trig().dalpha(t), -math.pi / 2 * math.sin(0.15 * math.pi)),
        (Trig().dsigma(t), math.pi / 2 * math.cos(0.15 * math.pi)),
        (VE().dsigma(t), 560 * 0.3**6),
    ):
        assert float(made) == pytest.approx(expected, rel=1e-9)
    # sigma starts as a square root: its slope is held at that of sigma = 1e-4
    assert float(linear.dsigma(at(0.0))) == pytest.approx(0.1 / 2 / 1e-4)
    assert float(VE(0.01, 50.0, 3.0).t_min) == pytest.approx((0.01 / 50) ** (1 / 3))


@pytest.mark.parametrize("process", ALL, ids=repr)
def test_times_of_any_level_lie_between_the_ends(process):
    levels = torch.tensor([-math.inf, -60.0, -11.0, 11.0, 60.0, math.inf], dtype=torch.float64)
    times = process.time(levels)
    assert times.isfinite().all() and float(times.min()) >= 0 and float(times.max()) <= 1
    assert (times[:-1] >= times[1:]).all()


def test_a_table_goes_no_further_than_its_ends():
    process = ScaledLinearVP(steps=10)
    for beyond, end in ((1.3, 1.0), (-0.2, 0.0)):
        assert float(process.angle(at(beyond))) == float(process.angle(at(end)))
        assert float(process.dangle(at(beyond))) == float(process.dangle(at(end)))
    last = (process.table[10] - process.table[9]) * 10
    assert float(process.dangle(at(1.0))) == pytest.approx(float(last))
    assert process.time_of_index(torch.tensor([0.0, 9.0])).tolist() == pytest.approx([0.1, 1.0])
    assert process.index_of_time(torch.tensor([0.1, 1.0])).tolist() == pytest.approx([0, 9], abs=1e-6)


def test_a_table_of_ones_own():
    betas = [0.1, 0.2, 0.4]
    process = ScaledLinearVP(steps=3, betas=betas)
    kept = [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.6]
    made = process.alpha(torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64)) ** 2
    assert made.tolist() == pytest.approx(kept) and process.betas == tuple(betas)
    with pytest.raises(StillhouseError, match="A table of 4 steps needs as many betas, not 3"):
        ScaledLinearVP(steps=4, betas=betas)
    none_left = ScaledLinearVP(steps=3, betas=betas, zero_terminal_snr=True)
    root = [math.sqrt(v) for v in kept]
    scaled = [(v - root[2]) * root[0] / (root[0] - root[2]) for v in root]
    made = none_left.alpha(torch.tensor([1 / 3, 2 / 3, 1.0], dtype=torch.float64))
    assert made.tolist() == pytest.approx(scaled, abs=1e-9)


def test_classes_without_a_name_are_not_listed():
    assert "" not in PROCESSES and all(process.name == name for name, process in PROCESSES.items())
