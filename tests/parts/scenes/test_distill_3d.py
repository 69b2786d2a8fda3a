import math

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP
from stillhouse.models.scenes import Plain
from stillhouse.parts.gaps.score import sds_gradient, surrogate_loss
from stillhouse.parts.gaps.vsd import vsd_gradient
from stillhouse.parts.scenes.distill_3d import clean_flow, falling
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers import make_solver
from stillhouse.worlds.mixture.layouts import make_mixture
from tests.parts.affine import affine, f64

WORLD = make_mixture()


def normal(n, seed=0):
    return Draws(n, seed).normal(2, dtype=torch.float64)


@pytest.mark.parametrize("process", [Flow(), LinearVP(), Cosine()], ids=lambda p: p.name)
def test_with_the_ratio_the_step_leads_to_the_clean_estimate(process):
    model, x, eps, t = (
        WORLD.exact(process),
        normal(16),
        normal(16, 1),
        torch.linspace(0.1, 0.9, 16, dtype=torch.float64),
    )
    labels = torch.arange(16) % 8
    clean = model(process.noise(x, t, eps), t, labels).x0
    torch.testing.assert_close(sds_gradient(x, t, eps, model, cond=labels), x - clean)
    share = (process.sigma(t) ** 2 / (process.alpha(t) ** 2 + process.sigma(t) ** 2))[:, None]
    sds = share * (process.alpha(t) / process.sigma(t))[:, None] * (x - clean)
    torch.testing.assert_close(sds_gradient(x, t, eps, model, cond=labels, weight="sigma2"), sds)


def test_with_a_fake_score_it_is_variational_score_distillation():
    model, x, eps, t = (
        WORLD.exact(Flow()),
        normal(16),
        normal(16, 1),
        torch.linspace(0.1, 0.9, 16, dtype=torch.float64),
    )
    fake = make_mixture(std=0.6).exact(Flow())
    step = sds_gradient(x, t, eps, model, fake, weight="sigma2")
    torch.testing.assert_close(step, vsd_gradient(x, t, eps, model, fake))
    assert torch.equal(sds_gradient(x, t, eps, model, model), torch.zeros_like(x))
    labels = torch.arange(16) % 8
    told = sds_gradient(x, t, eps, model, fake, labels, fake_cond=labels)
    assert not torch.allclose(told, sds_gradient(x, t, eps, model, fake, labels))


def test_the_loss_has_the_step_as_its_gradient():
    x, g = normal(5).requires_grad_(), normal(5, 1)
    surrogate_loss(x, g, "sum").backward()
    torch.testing.assert_close(x.grad, g / 5)


def test_no_gradient_reaches_the_teacher():
    scene = Denoiser(Plain((2,)).double(), Flow(), "x0")
    g = sds_gradient(normal(3), torch.full((3,), 0.5), normal(3, 1), scene)
    assert not g.requires_grad


def test_time_falls_in_a_line():
    assert [falling(s, 0.9, 0.3) for s in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.6, 0.3])


@pytest.mark.parametrize("process", [LinearVP(), VE()], ids=lambda p: p.name)
def test_euler_on_the_clean_flow_is_ddim(process):
    model, eps, grid = (
        WORLD.exact(process),
        normal(64),
        torch.linspace(1, 0, 17, dtype=torch.float64).tolist(),
    )
    with torch.no_grad():
        there = rollout(
            model, process.sigma(torch.ones((), dtype=torch.float64)) * eps, grid, make_solver("ddim")
        )
        assert (clean_flow(model, eps, grid) - there).abs().max() < 1e-9


def test_half_way_it_is_ddim_without_its_noise():
    process, eps = LinearVP(), normal(64)
    model, grid = WORLD.exact(process), [1.0, 0.8, 0.6]
    with torch.no_grad():
        state = rollout(
            model, process.sigma(torch.ones((), dtype=torch.float64)) * eps, grid, make_solver("ddim")
        )
        t = torch.tensor(0.6, dtype=torch.float64)
        torch.testing.assert_close(
            clean_flow(model, eps, grid), state / process.alpha(t) - process.ratio(t) * eps
        )


def test_the_sde_reaches_the_modes_elsewhere_than_the_ode():
    eps, grid = normal(400), torch.linspace(0.999, 0, 65, dtype=torch.float64).tolist()
    with torch.no_grad():
        model = WORLD.exact(LinearVP())
        ode, sde = (
            clean_flow(model, eps, grid),
            clean_flow(model, eps, grid, gamma=0.02, draws=Draws(400, "sde")),
        )
    assert WORLD.off_mode(ode) < 0.02 and WORLD.off_mode(sde) < 0.02
    assert WORLD.modes_held(sde) == 8
    assert ((ode - sde).norm(dim=1) > 2).double().mean() > 0.1


def test_two_steps_of_the_clean_flow_by_hand():
    """On a flow, of the clean estimate ``D = 0.5 x + 2 t + cond``: its noise is ``(x - (1 - t) D) / t``."""
    eps, cond, grid = normal(3), f64([0.9, -0.4, 0.1]), [0.9, 0.5, 0.25]
    y = torch.zeros_like(eps)
    for t, s in ((0.9, 0.5), (0.5, 0.25)):
        x = (1 - t) * y + t * eps
        predicted = (x - (1 - t) * (0.5 * x + 2 * t + cond[:, None])) / t
        y = y + (s / (1 - s) - t / (1 - t)) * (predicted - eps)
    torch.testing.assert_close(clean_flow(affine(0.5, 2.0), eps, grid, cond), y)


def test_a_step_of_the_sde_goes_up_and_refreshes_the_noise_to_match():
    eps, cond, z = normal(3), f64([0.9, -0.4, 0.1]), Draws(3, "z").normal(2, dtype=torch.float64)
    t, up, s = 0.5, 0.6, 0.25
    kept = (t / (1 - t)) / (up / (1 - up))
    noise = kept * eps + math.sqrt(1 - kept**2) * z
    x = up * noise
    predicted = (x - (1 - up) * (0.5 * x + 2 * up + cond[:, None])) / up
    expected = (s / (1 - s) - up / (1 - up)) * (predicted - noise)
    made = clean_flow(affine(0.5, 2.0), eps, [t, s], cond, gamma=0.2, draws=Draws(3, "z"))
    torch.testing.assert_close(made, expected)
    # the first step can go no further up than the noise
    late = clean_flow(affine(0.5, 2.0), eps, [0.99, s], cond, gamma=0.2, draws=Draws(3, "z"))
    assert late.isfinite().all()


def test_the_sde_may_begin_at_pure_noise():
    """The first step goes down to the last time below 1, and no root of a negative number is taken."""
    with torch.no_grad():
        made = clean_flow(WORLD.exact(LinearVP()), normal(4), [1.0, 0.5], gamma=0.1, draws=Draws(4, "z"))
    assert made.isfinite().all()
