import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stillhouse.api.evaluate import exact_teacher
from stillhouse.core.bridge import Brownian, unconditional
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.io.weights import load_denoiser, save_denoiser
from stillhouse.opening import load
from stillhouse.systems.distribution.ibmd import IBMD
from stillhouse.systems.distribution.sid import SiD
from stillhouse.train.batch import Batch
from stillhouse.train.data import NoData, Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)
BRIDGE, ROWS = Brownian(0.6), 8


def test_the_loss_is_twice_score_identity_at_a_mix_of_one_half():
    x, d_real, d_fake = (
        torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    loss = IBMD().gap(x, d_real, d_fake)
    delta = d_real - d_fake
    torch.testing.assert_close(loss, delta**2 + 2 * delta * (d_fake - x), atol=1e-6, rtol=0)
    torch.testing.assert_close(loss, 2 * SiD(mix=0.5).fisher(x, d_real, d_fake), atol=1e-6, rtol=0)


MEAN, VAR = 0.8, 0.5  # of the residual that a degraded point leaves open


def gaussian_loss(a: Tensor, b: Tensor, spread: float, t: float = 0.5) -> Tensor:
    """The generator's loss for ``x_0 = a + b z`` on a bridge whose data are N(MEAN, VAR), its auxiliary
    perfect, by quadrature."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(40))
    z, eps = torch.meshgrid(nodes, nodes, indexing="ij")
    w = weights[:, None] * weights / (2 * math.pi)
    at = torch.tensor([t], dtype=torch.float64)
    alpha, sigma = BRIDGE.alpha(at), BRIDGE.sigma(at)

    def posterior(x_t: Tensor, mean, var) -> Tensor:
        return mean + alpha * var / (alpha**2 * var + sigma**2) * (x_t - alpha * mean)

    x = a + b * z
    x_t = alpha * x + sigma * eps
    return (
        w * IBMD(spread=spread).gap(x, posterior(x_t, MEAN, VAR), posterior(x_t, a.detach(), b.detach() ** 2))
    ).sum()


def gradient(a: float, b: float, spread: float = 1.0) -> list[float]:
    theta = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b)]
    return [float(g) for g in torch.autograd.grad(gaussian_loss(*theta, spread), theta)]


def test_the_data_is_the_fixed_point_and_the_second_part_keeps_its_spread():
    true = (MEAN, VAR**0.5)
    loss = gaussian_loss(*(torch.tensor(v, dtype=torch.float64) for v in true), 1.0)
    assert abs(float(loss)) < 1e-10
    assert gradient(*true) == pytest.approx([0, 0], abs=1e-10)
    assert (
        gradient(MEAN, 0.4)[1] < -0.01 and gradient(MEAN, 1.0)[1] > 0.01
    )  # too narrow widens, too wide narrows
    assert gradient(MEAN + 0.3, VAR**0.5)[0] > 0.01
    assert gradient(*true, spread=0.0)[1] > 0.1  # without the second part even the truth narrows
    below = float(
        gaussian_loss(torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64), 1.0)
    )
    assert below > 1e-3  # a distance: positive elsewhere


def built(kind: str = "told", **options) -> IBMD:
    world, method = get_world("mixture", bridge=kind), IBMD(**options)
    student = world.network(BRIDGE, 0, kind="x0", width=16, depth=1)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in student.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)  # the zero-initialised last layers hide gradients
    data = Prompts(world.shape, world.condition(torch.arange(64)))
    Trainer(
        method,
        exact_teacher(world, BRIDGE, solver="bridge"),
        data,
        Recipe(batch=ROWS),
        student=student,
        quiet=True,
    )
    method.cond = world.condition(torch.arange(ROWS))
    return method


def batch_of(method: IBMD) -> Batch:
    return Batch(0, ROWS, (2,), None, method.cond, ("fake", "student"), lambda name: Draws(ROWS, 0, name))


def test_the_auxiliary_hears_what_the_teacher_hears():
    assert built("blind").fake.call is unconditional
    method = built("told")
    assert method.fake.call is not unconditional and method.student.call is not unconditional


def test_the_auxiliary_moves_first_and_the_student_once_in_so_many_steps():
    order = [IBMD(fake_per_student=3).turns(i) for i in range(4)]
    assert order == [["fake", "student"], ["fake"], ["fake"], ["fake", "student"]]


def test_z_enters_and_training_meets_the_states_of_sampling():
    method = built(steps=3)
    (sampling,) = method.samplings().values()
    assert sampling.times == pytest.approx([1, 2 / 3, 1 / 3, 0])
    from stillhouse.samplers.draw import draw_samples

    batch = batch_of(method)
    k = batch.stream("depth").one_integer(1, 4)
    batch.player = "student"
    made = method.samples(batch).detach()
    sampling.legs[0].times = [*sampling.times[:k], 0.0]
    torch.testing.assert_close(
        made, draw_samples(method.student, sampling, (2,), method.cond, Draws(ROWS, 0, "student"))
    )
    one = {noise: built(noise=noise) for noise in (0.0, 1.0)}
    for noise, method in one.items():
        (sampling,) = method.samplings().values()
        a, b = (
            draw_samples(method.student, sampling, (2,), method.cond, Draws(ROWS, seed)) for seed in (0, 1)
        )
        assert torch.equal(a, b) == (noise == 0)


def test_an_unconditional_network_is_saved_as_one(tmp_path):
    world = get_world("mixture", bridge="blind")
    network = world.network(BRIDGE, kind="x0", width=16, depth=1, image_cond=0)
    network.call = unconditional
    save_denoiser(tmp_path / "w.safetensors", network)
    again, _ = load_denoiser(tmp_path / "w.safetensors")
    assert again.call is unconditional and again.process == BRIDGE


def test_only_bridges():
    world = get_world("mixture")
    with pytest.raises(StillhouseError, match="IBMD is for models of a bridge"):
        network = world.network(Flow(), width=16, depth=1, classes=0)
        Trainer(IBMD(), load(network, shape=world.shape), NoData(world.shape), Recipe(batch=8), quiet=True)
