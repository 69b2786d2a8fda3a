"""The formulas of tbcm: the view in angles, the tangent's sign, the route, and a run that could not have
touched data."""

import math

import pytest
import torch

from stillhouse.core.denoiser import Converted, Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow, Trig
from stillhouse.opening import load
from stillhouse.systems.trajectory.tbcm import HALF_PI, TBCM
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData, NoData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)
WORLD = get_world("mixture", radius=1.5, std=0.12)


def batch(rows=32, step=10_000, x=None, cond=None, seed=0):
    return Batch(
        step, rows, WORLD.shape, x, cond, ("student",), lambda name: Draws(rows, seed, name), player="student"
    )


def made(student=None, classes=0, **options):
    method = TBCM(**options)
    method.setup(
        WORLD.exact(Flow()), student or WORLD.network(Flow(), width=16, depth=1), WORLD.shape, classes
    )
    return method


def test_the_angle_view_of_a_flow_velocity_is_the_cards_formula():
    net = WORLD.network(Flow(), width=16, depth=1, classes=0).double()
    x, tau = (
        torch.randn(64, 2, dtype=torch.float64),
        torch.linspace(0.003, HALF_PI - 1e-3, 64, dtype=torch.float64),
    )
    slope = Converted(net, Trig())(x, tau / HALF_PI).velocity / HALF_PI
    t = tau.sin() / (tau.sin() + tau.cos())
    n, column = (t**2 + (1 - t) ** 2).sqrt(), t[:, None]
    x_f = n[:, None] * x
    expected = ((1 - 2 * column) * x_f + (1 - 2 * column + 2 * column**2) * net(x_f, t).raw) / n[:, None]
    assert (slope - expected).abs().max() < 1e-5  # the network itself is told its time in float32 at most


def clean_end(model, x, tau):
    pred = Converted(model, Trig())(x, tau / HALF_PI)
    return tau.cos()[:, None] * x - tau.sin()[:, None] * pred.velocity / HALF_PI


def test_the_pull_is_the_change_of_the_clean_end_along_the_teachers_path():
    """With the norm out of the way, the student's target moves by ``cos(tau) df/dtau``, measured here by
    moving along the path."""
    world = get_world("mixture", radius=1.5, std=0.5)
    student, teacher = world.network(Flow(), width=16, depth=1, classes=0).double(), world.exact(Flow())
    for p in student.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    method = TBCM(norm_offset=1e9, exact=True, warmup=1)
    method.setup(teacher, student, world.shape)
    tau, x = torch.linspace(0.2, 1.4, 24, dtype=torch.float64), torch.randn(24, 2, dtype=torch.float64)
    v = Converted(teacher, Trig())(x, tau / HALF_PI).velocity / HALF_PI
    h = 1e-5
    moved = (clean_end(student, x + h * v, tau + h) - clean_end(student, x - h * v, tau - h)) / (2 * h)
    method.walk = lambda batch, w: (x, tau, v, None, torch.ones_like(tau))
    pred = Converted(student, Trig())(x, tau / HALF_PI).velocity
    method.path_student = held = _Held(Converted(student, Trig()))
    method.student_loss(batch(24)).backward()
    weight = (tau.cos() / tau.sin())[:, None]
    pull = -held.last.grad * HALF_PI * 48 / (2 * weight) * 1e9  # the loss is a mean over 48 numbers
    expected = tau.cos()[:, None] * moved
    assert torch.allclose(held.last, pred) and expected.abs().mean() > 0.1
    assert (pull - expected).abs().max() < 1e-4 * expected.abs().max()


class _Held(torch.nn.Module):
    """Keeps the last velocity that gradient flowed through."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs, **extra):
        pred = self.inner(*inputs, **extra)
        if torch.is_grad_enabled():
            self.last = pred.velocity
            self.last.retain_grad()
        return pred


def test_the_loss_without_tangent_stands_still_at_the_teachers_own_velocity():
    """Velocity matching has its fixed point at the teacher; with the tangent the teacher's own answer is not
    one."""

    class Same(Denoiser):
        def __init__(self):
            super().__init__(torch.nn.Linear(1, 1), Flow(), "x0")
            self.inner = WORLD.exact(Flow())

        def forward(self, x_t, t, cond=None, *, s=None, guidance=None):
            return self.inner(x_t, t, cond)

    student = Same()
    for share, low, high in ((0.0, 0.0, 1e-6), (1.0, 1e-2, 10.0)):
        method = made(student, tangent_share=share)
        assert low <= float(method.student_loss(batch()).detach()) <= high


def test_the_route_falls_from_pure_noise_within_the_cards_levels():
    method = made(levels=16)
    route = [t * HALF_PI for t in method.route(batch())]
    assert len(route) == 16 and route[0] == HALF_PI and route[-1] >= 0.003 - 1e-12
    assert all(low < high for high, low in zip(route, route[1:], strict=False))
    sigmas = [2.5 * a / (1 + 1.5 * a) for a in (1 + (2.5e-3 / 1.0015 - 1) * i / 15 for i in range(16))]
    fixed = [math.atan2(sigma, 1 - sigma) for sigma in sigmas]
    assert all(low <= tau <= high for tau, low, high in zip(route[1:], fixed[1:], fixed, strict=False))
    assert made(levels=256).route(batch(seed=1)) != made(levels=256).route(batch(seed=2))
    noisiest = batch()
    noisiest.draws.one_uniform = lambda low, high: high
    route = [t * HALF_PI for t in method.route(noisiest)]
    assert route == pytest.approx([HALF_PI, HALF_PI - 1e-3, *fixed[1:-1]], abs=1e-6)


def test_the_states_of_one_walk_lie_on_the_teachers_path():
    method = made(levels=64)
    x, tau, v, cond, w = method.walk(batch(8), torch.ones(8))
    assert x.shape == v.shape == (63 * 8, 2) and cond is None and torch.equal(w, torch.ones(63 * 8))
    start = batch(8).noise()
    for i in (10, 40, 62):
        rows = slice(8 * i, 8 * i + 8)
        t = tau[rows] / HALF_PI
        exact = WORLD.endpoint(Trig(), start, s=float(t[0]))
        assert (x[rows] - exact).norm(dim=1).median() < 0.05
        assert torch.allclose(v[rows], WORLD.exact(Trig())(x[rows], t).velocity / HALF_PI, atol=1e-4)


def test_data_cannot_have_been_touched():
    """A run that is offered nothing but NaN as data is the run that is offered none."""

    class Poisoned(InfiniteData):
        def rows(self, start, draws):
            x, cond = super().rows(start, draws)
            return x * math.nan, cond

    teacher, runs = load(WORLD.exact(Flow()), shape=WORLD.shape), []
    for data in (Poisoned(WORLD), NoData(WORLD.shape)):
        student = WORLD.network(Flow(), width=16, depth=1)
        trainer = Trainer(
            TBCM(levels=4), teacher, data, Recipe(steps=4, batch=8), student=student, quiet=True
        )
        trainer.fit()
        runs.append(student.state_dict())
    assert all(
        torch.equal(a, b) and torch.isfinite(a).all()
        for a, b in zip(runs[0].values(), runs[1].values(), strict=True)
    )
    student = WORLD.network(Flow(), width=16, depth=1)
    with pytest.raises(StillhouseError, match="player 'student' became nan"):
        Trainer(
            TBCM(states="data"),
            teacher,
            Poisoned(WORLD),
            Recipe(steps=4, batch=8),
            student=student,
            quiet=True,
        ).fit()


def test_forward_mode_and_finite_difference_give_the_same_gradient():
    grads = []
    for exact in (True, False):
        student = WORLD.network(Flow(), 1, width=32, depth=2)
        method = made(student, exact=exact)
        method.student_loss(batch(16)).backward()
        grads.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    assert (grads[0] - grads[1]).norm() < 0.02 * grads[0].norm() and grads[0].norm() > 0.1


def test_finite_at_both_ends_of_the_path():
    method = made(exact=True)
    for end in (0.003, HALF_PI - 1e-3):
        x, tau = torch.randn(8, 2), torch.full((8,), end)
        method.walk = lambda batch, w, x=x, tau=tau: (x, tau, torch.randn(8, 2), None, torch.ones(8))
        method.student_loss(batch(8)).backward()
        assert all(torch.isfinite(p.grad).all() for p in method.student.parameters() if p.grad is not None)


def test_the_student_hears_the_scale_and_is_sampled_under_it_without_a_second_pass():
    teacher = WORLD.network(Flow(), width=16, depth=1)
    method = TBCM(low_guidance=2.0, high_guidance=4.0, levels=4)
    student = method.make_student(teacher)
    method.setup(teacher, student, WORLD.shape, WORLD.classes)
    heard = []
    student.net.register_forward_pre_hook(
        lambda _, inputs, extra: heard.append(extra["guidance"]), with_kwargs=True
    )
    label = torch.arange(8)
    method.student_loss(batch(8, cond=label))
    assert all(2 <= float(w.min()) and float(w.max()) <= 4 and w.std() > 0 for w in heard)
    ways = method.samplings()
    assert all(way.guidance == 3.0 and way.nfe(student) == calls for calls, way in ways.items())
    middle = math.sin(1.1) / (math.sin(1.1) + math.cos(1.1))  # the flow's time of the angle 1.1
    assert ways[1].times == [1, 0] and ways[2].times == pytest.approx([1, middle, 0])
    with pytest.raises(StillhouseError, match="with conditions"):
        made(low_guidance=2.0, high_guidance=4.0)
    with pytest.raises(StillhouseError, match="with conditions"):
        made(low_guidance=2.0, high_guidance=2.0)
    with pytest.raises(StillhouseError, match="low to high"):
        TBCM(low_guidance=3.0, high_guidance=2.0)


def test_levels_of_noised_data_are_those_of_data_of_the_published_deviation():
    """``tan(tau) = exp(0.2 + 1.6 z) / sigma_data``: states are of unit variance, the levels are stated for
    0.5."""
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    z = batch(4000).draws.normal()
    for options, sigma_data in (({}, 0.5), ({"sigma_data": 1.0}, 1.0)):
        method = made(states="data", **options)
        _, tau, *_ = method.noised(batch(4000, x=x), torch.ones(4000))
        inner = (tau > 0.0031) & (tau < HALF_PI - 0.0011)  # away from where they are cut
        assert inner.float().mean() > 0.9
        expected = 0.2 + 1.6 * z - math.log(sigma_data)
        assert torch.allclose(torch.log(torch.tan(tau))[inner], expected[inner], atol=1e-2)
    for sigma_data, end in ((1e3, 0.003), (1e-3, HALF_PI - 1e-3)):
        _, tau, *_ = made(states="data", sigma_data=sigma_data).noised(batch(4000, x=x), torch.ones(4000))
        assert float((tau.min() if sigma_data > 1 else tau.max()) - end) == pytest.approx(0, abs=1e-6)
