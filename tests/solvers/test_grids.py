"""Time grids: their ends, their law, and the timesteps that Diffusers would use."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP, ScaledLinearVP, Trig
from stillhouse.solvers.grids import (
    GRIDS,
    cosine,
    karras,
    leading,
    linspace,
    log_snr,
    make_grid,
    shifted,
    trailing,
    uniform,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    "process", [Flow(), Trig(), Cosine(), LinearVP(), ScaledLinearVP(), VE()], ids=lambda p: p.name
)
@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_falls_to_zero_in_n_steps(process, name, n):
    if name in ("leading", "linspace", "trailing") and process.name != "scaled_linear_vp":
        with pytest.raises(StillhouseError, match="table"):
            make_grid(name, process, n)
        return
    grid = make_grid(name, process, n)
    assert grid.dtype == torch.float64 and grid.shape == (n + 1,)
    assert (grid[1:] < grid[:-1]).all() and grid[-1] == 0 and 0 < grid[0] <= 1


def test_karras_is_uniform_in_the_time_of_ve():
    process = VE()
    expected = torch.linspace(1, process.t_min, 18, dtype=torch.float64)
    torch.testing.assert_close(karras(process, 18)[:-1], expected, atol=1e-12, rtol=0)


def test_karras_levels_in_another_process():
    ratio = Flow().ratio(karras(Flow(), 10, sigma_min=0.01, sigma_max=50.0)[:-1])
    roots = ratio ** (1 / 7)
    torch.testing.assert_close(
        roots, torch.linspace(50 ** (1 / 7), 0.01 ** (1 / 7), 10, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_log_snr_is_even_in_lambda():
    grid = log_snr(Trig(), 6, -math.log(20), -math.log(0.02), zero=False)
    torch.testing.assert_close(
        Trig().log_snr(grid),
        torch.linspace(-math.log(20), math.log(50), 7, dtype=torch.float64),
        atol=1e-9,
        rtol=0,
    )


def test_shift_multiplies_the_noise_ratio():
    t, moved = uniform(8)[1:-1], shifted(8, 3.0)[1:-1]
    torch.testing.assert_close(Flow().ratio(moved), 3 * Flow().ratio(t), atol=1e-12, rtol=1e-12)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=uniform(8)[:-1].tolist())
    torch.testing.assert_close(scheduler.sigmas.double(), shifted(8, 3.0), atol=1e-6, rtol=0)


def test_cosine_is_symmetric():
    torch.testing.assert_close(
        cosine(9) + cosine(9).flip(0), torch.ones(10, dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(
    "spacing, grid", [("leading", leading), ("linspace", linspace), ("trailing", trailing)]
)
@pytest.mark.parametrize("n", [4, 10, 30, 50])
def test_timesteps_of_diffusers(spacing, grid, n):
    scheduler = DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(n)
    index = ScaledLinearVP().index_of_time(grid(ScaledLinearVP(), n)[:-1])
    assert index.round().long().tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize(
    "config, process",
    [
        ("karass", Flow()),
        ({"name": "karras", "row": 7}, Flow()),
        ({"name": "karras", "sigma_max": 100.0}, VE()),
        ({"name": "karras", "sigma_min": 0.0}, Flow()),
        ({"name": "shifted", "shift": 0.0}, Flow()),
    ],
)
def test_refuses(config, process):
    with pytest.raises(StillhouseError):
        make_grid(config, process, 4)


def test_refuses_no_steps():
    with pytest.raises(StillhouseError, match="at least one step"):
        make_grid("uniform", Flow(), 0)
