"""Orders of convergence on an exact Gaussian-mixture denoiser, in float64, and the identities between
solvers."""

import math
from functools import cache

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.process import Process, convert
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP, Trig
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers import SOLVERS, make_solver
from stillhouse.solvers.base import Solver
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.dpm import DPMpp
from stillhouse.solvers.grids import log_snr, uniform
from stillhouse.solvers.heun import Heun
from stillhouse.solvers.rk45 import endpoint
from stillhouse.solvers.unipc import UniPC
from stillhouse.worlds.mixture.world import MixtureDenoiser

torch.set_num_threads(1)
ROWS = 24
PROCESSES = [
    Flow(),
    Trig(),
    Cosine(),
    LinearVP(),
    ScaledLinearVP(),
    ScaledLinearVP(zero_terminal_snr=True),
    VE(),
]
WIDE = [
    p for p in PROCESSES if p.ratio(torch.ones(1)) > 20
]  # those whose noise reaches the grid's ratio of 20


def name_of(value: object) -> str:
    return (
        value.name + ("-zero" if getattr(value, "zero_terminal_snr", False) else "")
        if isinstance(value, Process)
        else str(value)
    )


def exact(process: Process) -> MixtureDenoiser:
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.2, -1.1], [-1.0, -0.7]])
    return MixtureDenoiser(
        process,
        means,
        torch.tensor([0.3, 0.25, 0.35, 0.3]),
        torch.tensor([0.3, 0.3, 0.2, 0.2]),
        torch.tensor([0, 0, 1, 1]),
    )


def start(process: Process, t: float, seed: int = 0) -> torch.Tensor:
    z = Draws(ROWS, "start", seed).normal(2, dtype=torch.float64)
    at = torch.tensor(t, dtype=torch.float64)
    return torch.hypot(process.alpha(at), process.sigma(at)) * z


def walk(process: Process, solver: Solver, grid: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return rollout(
        exact(process), start(process, float(grid[0])), grid, solver, draws=Draws(ROWS, "walk", seed)
    )


def snr_grid(process: Process, n: int) -> torch.Tensor:
    return log_snr(process, n, -math.log(20), -math.log(0.02), zero=False)


@cache
def truth(process: Process) -> torch.Tensor:
    first, last = snr_grid(process, 1).tolist()
    return endpoint(exact(process), start(process, first), first, last, rtol=1e-10, atol=1e-10)


def order(process: Process, solver: Solver, n: int = 80) -> float:
    errors = [
        (walk(process, solver, snr_grid(process, k)) - truth(process)).norm(dim=1).median()
        for k in (n, 2 * n)
    ]
    return float(torch.log2(errors[0] / errors[1]))


ORDERS = [
    (DDIM(), 1.0, 0.1),
    (Heun("ratio"), 2.0, 0.15),
    (Heun("flow"), 2.0, 0.15),
    (DPMpp(), 2.0, 0.15),
    (UniPC(corrector=False), 2.0, 0.15),
]


@pytest.mark.parametrize("process", [Flow(), VE()], ids=name_of)
@pytest.mark.parametrize("solver, expected, margin", ORDERS, ids=str)
def test_order_of_convergence(process, solver, expected, margin):
    assert order(process, solver) == pytest.approx(expected, abs=margin)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_the_corrector_raises_unipc_by_an_order(variant):
    assert order(Flow(), UniPC(variant=variant), 40) == pytest.approx(3, abs=0.25)
    assert order(Flow(), UniPC(order=1, variant=variant), 40) == pytest.approx(2, abs=0.2)


def test_dropping_the_difference_from_2m_falls_to_first_order():
    assert order(Flow(), DPMpp(order=1)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("process", WIDE, ids=name_of)
def test_every_process_takes_the_same_ddim_and_multistep_steps(process):
    """The coordinate is process-free: at equal sigma/alpha, states of two processes differ by their scale
    alone."""
    for solver in (DDIM(), DPMpp(), UniPC(), Heun("ratio"), Heun("flow")):
        grid, there = snr_grid(Flow(), 8), snr_grid(process, 8)
        x = start(Flow(), float(grid[0]))
        other, _ = convert(x, grid[:1].expand(ROWS), Flow(), process)
        ended = rollout(exact(Flow()), x, grid, solver)
        moved, _ = convert(ended, grid[-1:].expand(ROWS), Flow(), process)
        torch.testing.assert_close(
            rollout(exact(process), other, there, solver), moved, atol=1e-10, rtol=1e-10
        )


STURDY = [DDIM(), DDIM(1.0), Heun(), DPMpp(), DPMpp(eta=1), UniPC()]
DELICATE = [
    Heun("ratio"),
    DPMpp(lower_order_final=False),
    UniPC(variant="bh1"),
]  # finite, but no good on steps this long


@pytest.mark.parametrize("process", PROCESSES, ids=name_of)
def test_finite_from_pure_noise_to_data(process):
    for solver in STURDY + DELICATE:
        ended = walk(process, solver, uniform(12))
        assert ended.isfinite().all(), solver
        if solver in STURDY:  # nearly all of the mixture lies within 2 of the origin
            assert float(ended.norm(dim=1).median()) < 2, solver


def ancestral(process: Process, grid: torch.Tensor, noise: Draws) -> torch.Tensor:
    """DDPM's posterior q(x_s | x_t, x0) in beta form (Ho et al., 2020, eq. 6-7)."""
    model, x = exact(process), start(process, float(grid[0]))
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        a_t, a_s = process.alpha(t) ** 2, process.alpha(s) ** 2
        kept = a_t / a_s
        x0 = model(x, t.expand(ROWS)).x0
        mean = (a_s.sqrt() * (1 - kept) * x0 + kept.sqrt() * (1 - a_s) * x) / (1 - a_t)
        x = mean + ((1 - a_s) / (1 - a_t) * (1 - kept)).clamp_min(0).sqrt() * noise.normal_like(x)
    return x


@pytest.mark.parametrize("solver", [DDIM(eta=1.0), DPMpp(order=1, eta=1.0)], ids=str)
def test_eta_1_is_ancestral_sampling(solver):
    process = ScaledLinearVP()
    expected = ancestral(process, uniform(10), Draws(ROWS, "walk", 0))
    torch.testing.assert_close(walk(process, solver, uniform(10)), expected, atol=1e-10, rtol=0)


def test_transition_gives_the_mean_and_std_of_ddpm():
    process, t, s = (
        ScaledLinearVP(),
        torch.full((ROWS,), 0.7, dtype=torch.float64),
        torch.full((ROWS,), 0.6, dtype=torch.float64),
    )
    x = start(process, 0.7)
    pred = exact(process)(x, t)
    a_t, a_s = process.alpha(t)[:1] ** 2, process.alpha(s)[:1] ** 2
    beta = 1 - a_t / a_s
    mean = (a_s.sqrt() * beta * pred.x0 + (1 - beta).sqrt() * (1 - a_s) * x) / (1 - a_t)
    for large, variance in ((False, (1 - a_s) / (1 - a_t) * beta), (True, beta)):
        got, std = DDIM(eta=1.0, large=large).transition(pred, s)
        torch.testing.assert_close(got, mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(std, variance.sqrt().expand(ROWS), atol=1e-12, rtol=0)
    assert DDIM().transition(pred, s)[1].abs().max() == 0


def test_vp_ddim_is_euler_in_the_noise_ratio():
    process, grid = LinearVP(), snr_grid(LinearVP(), 12)
    model, x = exact(process), start(process, float(grid[0]))
    y = x / process.alpha(grid[0])
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        ratio = process.ratio(t)
        slope = (y - model(y * process.alpha(t), t.expand(ROWS)).x0) / ratio
        y = y + (process.ratio(s) - ratio) * slope
    torch.testing.assert_close(walk(process, DDIM(), grid), y * process.alpha(grid[-1]), atol=1e-10, rtol=0)


def test_ve_heun_is_edm_algorithm_1():
    process, grid = VE(), uniform(9)
    model, x = exact(process), start(process, 1.0)
    for t, s in zip(process.sigma(grid[:-1]), process.sigma(grid[1:]), strict=True):

        def slope(x, level):
            return (x - model(x, process.time(-level.log()).expand(ROWS)).x0) / level

        first = slope(x, t)
        euler = x + (s - t) * first
        x = euler if s == 0 else x + (s - t) * (first + slope(euler, s)) / 2
    torch.testing.assert_close(walk(process, Heun(), grid), x, atol=1e-10, rtol=0)


def test_flow_heun_is_the_trapezoid_of_the_velocity():
    process, grid = Flow(), uniform(9)
    model, x = exact(process), start(process, 1.0)
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        first = model(x, t.expand(ROWS)).velocity
        euler = x + (s - t) * first
        x = euler if s == 0 else x + (s - t) * (first + model(euler, s.expand(ROWS)).velocity) / 2
    torch.testing.assert_close(walk(process, Heun(), grid), x, atol=1e-10, rtol=0)


@pytest.mark.parametrize("process", [Flow(), ScaledLinearVP()], ids=name_of)
def test_first_orders_are_ddim_and_eta_0_is_2m(process):
    plain = walk(process, DDIM(), uniform(7))
    for solver in (UniPC(order=1, corrector=False), DPMpp(order=1)):
        torch.testing.assert_close(walk(process, solver, uniform(7)), plain, atol=1e-10, rtol=0)
    grid = (
        snr_grid(process, 7) if process in WIDE else uniform(7)[1:]
    )  # no infinite h, of which even a tiny eta is infinite
    almost = walk(process, DPMpp(eta=1e-24), grid)
    torch.testing.assert_close(almost, walk(process, DPMpp(), grid), atol=1e-10, rtol=0)
    # UniP-2 in B(h) = 1 - e^-h has the weight 1/2 of 2M
    torch.testing.assert_close(
        walk(process, UniPC(corrector=False), uniform(7)),
        walk(process, DPMpp(), uniform(7)),
        atol=1e-10,
        rtol=0,
    )


def test_sde_samples_have_the_spread_of_the_data():
    """Weak check of the noise: 60 stochastic steps keep the second moment, and too little or too much noise
    would not."""
    rows, model = 4000, exact(Flow())
    second = float(
        (
            torch.tensor([0.3, 0.3, 0.2, 0.2]).double() * (model.means.square().sum(1) + 2 * model.variances)
        ).sum()
    )
    for solver in (DDIM(eta=1.0), DPMpp(eta=1.0)):
        x = Draws(rows, "sde").normal(2, dtype=torch.float64)
        x = rollout(model, x, uniform(60), solver, draws=Draws(rows, "sde noise"))
        assert float(x.square().sum(1).mean()) == pytest.approx(second, rel=0.06)


def test_registry_round_trips_and_refuses():
    for solver in (DDIM(0.3, True), Heun("flow"), DPMpp(1, 0.5, False), UniPC(1, "bh1", False)):
        assert make_solver(solver.config()) == solver
    assert {make_solver(name).name for name in SOLVERS} == set(SOLVERS)
    for bad in (
        "hein",
        {"name": "heun", "order": 3},
        {"name": "ddim", "eta": 2.0},
        {"name": "unipc", "variant": "bh3"},
        {"name": "dpm++", "order": 3},
        {},
    ):
        with pytest.raises(StillhouseError):
            make_solver(bad)
