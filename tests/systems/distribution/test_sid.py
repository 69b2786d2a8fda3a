import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stillhouse.api.runs import distill
from stillhouse.core.denoiser import count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Flow
from stillhouse.systems.distribution.sid import SiD
from stillhouse.train.batch import Batch
from stillhouse.worlds.mixture.layouts import make_mixture
from tests.systems.contract_method import contract_of, small_teacher

WORLD = make_mixture()
T = 0.4
ALPHA, SIGMA = 1 - T, T
TEACHER = [torch.tensor(v, dtype=torch.float64) for v in ([-1.0, 1.3], [0.4, 0.3], [0.35, 0.65])]
WEIGHTS = torch.tensor([0.5, 0.5], dtype=torch.float64)


def posterior(x_t: Tensor, means: Tensor, stds: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Denoiser, score and log density of a noised 1-D mixture."""
    v = (ALPHA * stds) ** 2 + SIGMA**2
    away = x_t[..., None] - ALPHA * means
    joint = weights.log() - 0.5 * v.log() - 0.5 * away**2 / v
    d = (joint.softmax(-1) * (means + ALPHA * stds**2 / v * away)).sum(-1)
    return d, (ALPHA * d - x_t) / SIGMA**2, joint.logsumexp(-1) - 0.5 * math.log(2 * math.pi)


def fisher_gradient(theta: Tensor) -> Tensor:
    """Gradient of ``E_p |s_teacher - s_student|^2`` in means and stds of the student's density, by
    quadrature."""
    x = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    student, teacher = posterior(x, theta[:2], theta[2:], WEIGHTS), posterior(x, *TEACHER)
    return torch.autograd.grad(torch.trapezoid(student[2].exp() * (teacher[1] - student[1]) ** 2, x), theta)[
        0
    ]


def sid_gradient(theta: Tensor, mix: float) -> Tensor:
    """The same through SiD's loss, its fake perfect and its weights held, over Gauss-Hermite nodes of both
    noises."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(80))
    z, eps = torch.meshgrid(nodes, nodes, indexing="ij")
    w = weights[:, None] * weights / (2 * math.pi)
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(2):
        x = theta[k] + theta[2 + k] * z
        x_t = ALPHA * x + SIGMA * eps
        d_real, d_fake = (
            posterior(x_t, *TEACHER)[0],
            posterior(x_t, theta[:2].detach(), theta[2:].detach(), WEIGHTS)[0],
        )
        loss = loss + WEIGHTS[k] * (w * SiD(mix=mix).fisher(x, d_real, d_fake)).sum()
    return 2 * (ALPHA / SIGMA**2) ** 2 * torch.autograd.grad(loss, theta)[0]


def test_a_mix_of_one_half_is_the_gradient_of_the_fisher_divergence():
    theta = torch.tensor([-0.6, 0.7, 0.5, 0.6], dtype=torch.float64, requires_grad=True)
    exact = fisher_gradient(theta)
    gap = {mix: float((sid_gradient(theta, mix) - exact).norm() / exact.norm()) for mix in (0.5, 1.0, 1.2)}
    assert gap[0.5] < 1e-5
    assert gap[1.0] > 0.1 and gap[1.2] > gap[1.0]


def test_split_form_of_the_loss():
    x, d_real, d_fake = (
        torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    delta = d_real - d_fake
    split = delta * (d_fake - x) + (1 - 1.2) * delta**2
    torch.testing.assert_close(SiD(mix=1.2).fisher(x, d_real, d_fake), split)


def test_a_sample_that_is_the_teachers_estimate_has_a_finite_weight():
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = x + 3
    torch.testing.assert_close(SiD()._weighed(x, x, loss), loss.mean() / 1e-5)


def test_both_scores_are_guided_and_so_is_the_fake_in_its_own_training():
    world, teacher = small_teacher(contract_of("sid"))
    method = SiD(guidance=2.0)
    method.setup(teacher.denoiser, teacher.denoiser.copy(), world.shape, conditional=True)
    labels = torch.arange(8) % world.classes

    def loss(player):
        draws = lambda name: Draws(8, 0, name)  # noqa: E731
        batch = Batch(0, 8, world.shape, None, labels, ("fake", "student"), draws)
        return method.loss(player, batch)

    with count_calls(method.teacher) as real, count_calls(method.fake) as own:
        start = loss("student")
        assert (real(), own()) == (2, 2)
        assert float(start) == 0  # the fake is the teacher still: under equal guidance the two agree
        loss("fake").backward()
        assert (real(), own()) == (2, 4)
    with torch.no_grad():
        for p in method.fake.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    assert float(loss("student")) != 0


def test_on_edms_process_the_defaults_are_the_papers():
    ve = VE()
    student = distill(
        "exact:ve", "sid", world="mixture", student={"width": 8}, iterations=1, batch=4, quiet=True
    )
    options = student.info["options"]
    assert float(ve.sigma(torch.tensor(options["first_time"]))) == pytest.approx(2.5, rel=1e-4)
    assert (options["score_t_min"], options["score_t_max"], options["fake_times"]) == (0.0, 0.8, "edm")
    assert options["mix"] == 1.2
    t = student.samplings[1].times[0]
    assert float(ve.sigma(torch.tensor(t))) == pytest.approx(2.5, rel=1e-4)
    # the Karras ramp up to 800 of 1000: sigma at most 24.4
    method = SiD(**options)
    method.setup(WORLD.exact(ve), WORLD.network(ve, width=8, depth=1, classes=0), WORLD.shape)
    batch = Batch(0, 4096, (2,), None, None, ("student",), lambda name: Draws(4096, 0, name))
    sigma = ve.sigma(method.score_times(batch))
    top = (0.002 ** (1 / 7) + 0.8 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    assert 0.99 * top < float(sigma.max()) <= top * 1.0001 and 0.0019 < float(sigma.min()) < 0.01


def test_what_is_given_comes_before_the_defaults_of_a_process():
    given = {"first_time": 0.7, "score_t_max": 0.98, "world": "mixture", "iterations": 1, "batch": 4}
    student = distill("exact:ve", "sid", student={"width": 8}, quiet=True, **given)
    options = student.info["options"]
    assert (options["first_time"], options["score_t_max"], options["score_t_min"]) == (0.7, 0.98, 0.0)
    assert SiD.defaults_on(Flow()) == {}
