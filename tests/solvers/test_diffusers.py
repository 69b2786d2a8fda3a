"""The same network outputs through our solvers and through Diffusers' schedulers, on the schedulers' own
timesteps."""

import diffusers
import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import Flow, ScaledLinearVP
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.dpm import DPMpp
from stillhouse.solvers.grids import shifted
from stillhouse.solvers.heun import Heun
from stillhouse.solvers.unipc import UniPC

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(x: torch.Tensor, index: torch.Tensor | float) -> torch.Tensor:
    """A smooth stand-in for a trained network of state and table step."""
    place = torch.as_tensor(index, dtype=x.dtype) / 1000
    return torch.tanh(1.3 * x.roll(1, -1) + x * place.reshape(-1, *[1] * (x.dim() - 1)) + 0.4) * 0.8


def theirs(scheduler, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Diffusers' loop. Its tables are float32; made anew in float64, only the formulas can differ."""
    if hasattr(scheduler, "alphas_cumprod"):
        process = ScaledLinearVP()
        scheduler.alphas_cumprod = torch.cos(process.table[1:]) ** 2
        scheduler.alpha_t, scheduler.sigma_t = (
            scheduler.alphas_cumprod.sqrt(),
            (1 - scheduler.alphas_cumprod).sqrt(),
        )
    scheduler.set_timesteps(n)
    x = X * scheduler.init_noise_sigma
    extra = {} if generator is None else {"generator": generator}
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, **extra).prev_sample
    return x


def ours(scheduler, solver, kind: str, noise=None, end: float = 0.0) -> torch.Tensor:
    process = ScaledLinearVP()
    steps = torch.as_tensor(scheduler.timesteps, dtype=torch.float64).unique().flip(0)
    grid = torch.cat([process.time_of_index(steps), torch.tensor([end], dtype=torch.float64)])
    model = Denoiser(
        torch.nn.Identity(), process, kind, call=lambda net, x, t, c: network(x, process.index_of_time(t))
    )
    t = grid[0]
    start = X
    if scheduler.init_noise_sigma != 1:  # a scheduler in y = x / alpha starts from its largest noise ratio
        start = X * scheduler.init_noise_sigma * process.alpha(t)
    return rollout(model, start, grid, solver, draws=noise)


KINDS = [("epsilon", "eps"), ("v_prediction", "v")]


@pytest.mark.parametrize("theirs_kind, kind", KINDS)
@pytest.mark.parametrize("n", [4, 20])
def test_ddim(theirs_kind, kind, n):
    scheduler = diffusers.DDIMScheduler(
        **SD,
        prediction_type=theirs_kind,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    torch.testing.assert_close(theirs(scheduler, n), ours(scheduler, DDIM(), kind), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("theirs_kind, kind", KINDS)
def test_euler(theirs_kind, kind):
    scheduler = diffusers.EulerDiscreteScheduler(
        **SD, prediction_type=theirs_kind, timestep_spacing="trailing"
    )
    torch.testing.assert_close(theirs(scheduler, 12), ours(scheduler, DDIM(), kind), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("theirs_kind, kind", KINDS)
def test_heun(theirs_kind, kind):
    scheduler = diffusers.HeunDiscreteScheduler(
        **SD, prediction_type=theirs_kind, timestep_spacing="trailing"
    )
    torch.testing.assert_close(
        theirs(scheduler, 10), ours(scheduler, Heun("ratio"), kind), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("theirs_kind, kind", KINDS)
@pytest.mark.parametrize("n", [2, 6, 20])
def test_dpm_2m(theirs_kind, kind, n):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SD, prediction_type=theirs_kind, timestep_spacing="trailing"
    )
    torch.testing.assert_close(theirs(scheduler, n), ours(scheduler, DPMpp(), kind), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("theirs_kind, kind", KINDS)
# Diffusers' bh1 multiplies an infinite B(h) by 0 on the step to sigma = 0, and says NaN; ours is compared on
# a grid that ends above
@pytest.mark.parametrize(
    "variant, last, end", [("bh2", "zero", 0.0), ("bh2", "sigma_min", 0.001), ("bh1", "sigma_min", 0.001)]
)
@pytest.mark.parametrize("n", [2, 6, 12])
def test_unipc(theirs_kind, kind, variant, last, end, n):
    scheduler = diffusers.UniPCMultistepScheduler(
        **SD,
        prediction_type=theirs_kind,
        timestep_spacing="trailing",
        solver_type=variant,
        final_sigmas_type=last,
    )
    torch.testing.assert_close(
        theirs(scheduler, n), ours(scheduler, UniPC(variant=variant), kind, end=end), atol=1e-5, rtol=1e-5
    )


class Replayed:
    """Our draws from a plain generator, in the order in which a scheduler takes them."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal_like(self, x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def test_euler_ancestral():
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**SD, timestep_spacing="trailing")
    expected = theirs(scheduler, 12, torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        ours(scheduler, DDIM(eta=1.0), "eps", Replayed(3)), expected, atol=1e-5, rtol=1e-5
    )


def test_sde_dpm_2m():
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SD, timestep_spacing="trailing", algorithm_type="sde-dpmsolver++"
    )
    expected = theirs(scheduler, 12, torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        ours(scheduler, DPMpp(eta=1.0), "eps", Replayed(3)), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_euler(shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    n = 9
    scheduler.set_timesteps(sigmas=[1 - i / n for i in range(n)])
    x = X
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
    model = Denoiser(torch.nn.Identity(), Flow(), call=lambda net, x, t, c: network(x, t * 1000))
    torch.testing.assert_close(rollout(model, X, shifted(n, shift), DDIM()), x.double(), atol=1e-5, rtol=1e-5)


def test_flow_match_heun():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(8)
    grid = [*dict.fromkeys(scheduler.sigmas.tolist())]
    x = X
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
    model = Denoiser(torch.nn.Identity(), Flow(), call=lambda net, x, t, c: network(x, t * 1000))
    torch.testing.assert_close(rollout(model, X, grid, Heun()), x.double(), atol=1e-5, rtol=1e-5)
