"""Exact endpoints of the probability-flow ODE."""

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP, Trig
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers.grids import cosine
from stillhouse.solvers.heun import Heun
from stillhouse.solvers.rk45 import endpoint
from stillhouse.worlds.mixture.world import MixtureDenoiser

torch.set_num_threads(1)
PROCESSES = [Flow(), Trig(), Cosine(), LinearVP(), ScaledLinearVP(zero_terminal_snr=True), VE()]


def exact(process):
    means = torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.2, -1.1]])
    return MixtureDenoiser(
        process, means, torch.tensor([0.4, 0.35, 0.45]), torch.ones(3) / 3, torch.tensor([0, 1, 2])
    )


def noise(process, rows=16):
    return process.prior_std * Draws(rows, "rk").normal(2, dtype=torch.float64)


def test_agrees_with_heun_extrapolated_to_no_step():
    x = noise(Flow(), 8)
    coarse, fine = (rollout(exact(Flow()), x, cosine(n), Heun()) for n in (300, 600))
    torch.testing.assert_close(
        endpoint(exact(Flow()), x, 1.0, 0.0, rtol=1e-9, atol=1e-9),
        fine + (fine - coarse) / 3,
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_gaussian_endpoint_in_closed_form(process):
    """For data N(m, d^2) the ODE keeps (x - alpha m) / sqrt(alpha^2 d^2 + sigma^2); from t = 1 to 0 and
    back."""
    mean, std = torch.tensor([[0.7, -0.4]]), 0.5
    model = MixtureDenoiser(
        process, mean, torch.tensor([std]), torch.ones(1), torch.zeros(1, dtype=torch.long)
    )
    x = noise(process)

    def whitened(x, t):
        t = torch.tensor(t, dtype=torch.float64)
        return (x - process.alpha(t) * mean) / (process.alpha(t) ** 2 * std**2 + process.sigma(t) ** 2).sqrt()

    down = endpoint(model, x, 1.0, 0.0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whitened(down, 0.0), whitened(x, 1.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(endpoint(model, down, 0.0, 1.0, rtol=1e-9, atol=1e-9), x, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_finite_in_float32_and_close_to_float64(process):
    x = noise(process)
    truth = endpoint(exact(process), x, 1.0, 0.0, rtol=1e-8, atol=1e-8)
    single = endpoint(exact(process), x.float(), 1.0, 0.0, rtol=1e-5, atol=1e-5)
    assert single.dtype == torch.float32
    assert float((single - truth).norm(dim=1).median()) < 1e-3


def test_times_per_sample_and_tolerance():
    process = Flow()
    x, t0 = noise(process), torch.linspace(0.3, 1, 16, dtype=torch.float64)
    together = endpoint(exact(process), x, t0, t0 / 2, rtol=1e-9, atol=1e-9)
    for i in (0, 7, 15):
        alone = endpoint(exact(process), x[i : i + 1], float(t0[i]), float(t0[i] / 2), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-8, rtol=0)
    torch.testing.assert_close(endpoint(exact(process), x, t0, t0), x, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 3e-5), (torch.float64, 3e-7)])
def test_lands_exactly_on_a_point(dtype, bound):
    """Data without width: the slope jumps at sigma = 0, and the last hair must be walked in the right
    direction."""
    point = torch.tensor([[0.7, -0.4]])
    model = MixtureDenoiser(
        Flow(), point, torch.tensor([1e-9]), torch.ones(1), torch.zeros(1, dtype=torch.long)
    )
    ended = endpoint(model, noise(Flow()).to(dtype), 1.0, 0.0, rtol=bound / 10, atol=bound / 10)
    assert float((ended - point).abs().max()) < bound


def test_a_denoiser_that_speaks_nan_is_refused():
    broken = Denoiser(torch.nn.Identity(), Flow(), call=lambda net, x, t, c: x * torch.nan)
    with pytest.raises(StillhouseError, match="can't be followed"):
        endpoint(broken, noise(Flow()), 1.0, 0.0)


def test_condition_reaches_the_model():
    x = noise(Flow(), 64)
    label = torch.full((64,), 2)
    ended = endpoint(exact(Flow()), x, 1.0, 0.0, label)
    assert float((ended.mean(0) - torch.tensor([0.2, -1.1])).norm()) < 0.25
