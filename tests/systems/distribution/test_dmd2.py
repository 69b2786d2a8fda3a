import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Flow
from stillhouse.opening import load
from stillhouse.parts.gaps.critic import Head, discriminator_loss, generator_loss
from stillhouse.parts.states.backward_simulation import student_grid
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.distribution.dmd2 import DMD2
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.layouts import make_mixture

ROWS = 8


def built(**options) -> DMD2:
    world, method = make_mixture(), DMD2(**options)
    student = world.network(Flow(), 0, width=16, depth=2, classes=0)
    teacher = load(world.exact(Flow()), shape=world.shape)
    Trainer(method, teacher, InfiniteData(world), Recipe(batch=ROWS), student=student, quiet=True)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():  # layers that start at zero hide gradients
        for module in method.players.values():
            for p in module.parameters():
                p += 0.1 * torch.randn(p.shape, generator=g)
    return method


def batch_of(seed: int = 0, turns=("student", "fake")) -> Batch:
    x = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(3))
    return Batch(seed, ROWS, (2,), x, None, turns, lambda name: Draws(ROWS, seed, name))


def test_training_meets_the_states_that_the_sampler_meets():
    method, met = built(steps=4, first_time=0.9, gan_weight=0.0), []
    method.student.register_forward_pre_hook(
        lambda _m, args: met.append((args[0].detach().clone(), args[1].clone()))
    )
    draw_samples(method.student, method.samplings()[4], (2,), None, Draws(ROWS, 0, "samples"))
    sampled, depths = list(met), set()
    for seed in range(12):
        met.clear()
        batch = Batch(
            0,
            ROWS,
            (2,),
            None,
            None,
            ("student",),
            lambda name, seed=seed: Draws(ROWS, seed if name == "depth" else 0, name),
        )
        batch.player = "student"
        x = method.samples(batch)
        depths.add(len(met))
        assert x.requires_grad
        for (mine, t), (its, s) in zip(met, sampled, strict=False):
            assert torch.equal(mine, its) and torch.equal(t, s)
    assert depths == {1, 2, 3, 4}


@pytest.mark.parametrize(("unit", "deviation"), [(True, 1.0), (False, 0.4)])
def test_unit_noise_is_taken_as_the_state_of_the_first_time(unit, deviation):
    """The published one-step SDXL is shown noise of deviation 1 at step 399, in training and in sampling."""
    method, met = built(first_time=0.4, unit_noise=unit, gan_weight=0.0), []
    method.student.register_forward_pre_hook(lambda _m, args: met.append((args[0].detach(), args[1])))
    method.samples(batch_of())
    draw_samples(method.student, method.samplings()[1], (2,), None, Draws(ROWS, 0, "samples"))
    noise = Draws(ROWS, 0, "samples").normal(2)
    for x, t in met:
        assert torch.equal(x, deviation * noise) and bool((t == 0.4).all())
    assert len(met) == 2
    saved = Sampling.from_config(method.samplings()[1].config())
    assert saved.start == (1.0 if unit else None)


def test_only_the_last_call_carries_gradient():
    method, traced = built(steps=4, gan_weight=0.0), []
    method.student.register_forward_hook(lambda _m, _i, pred: traced.append(pred.raw.requires_grad))
    for seed in range(6):
        traced.clear()
        batch = batch_of(seed)
        batch.player = "student"
        method.samples(batch)
        assert traced == [False] * (len(traced) - 1) + [True]


def test_grid_is_even_between_the_start_and_t_min():
    assert student_grid(Flow(), 0.8, 4) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    ve = VE()
    grid = [*student_grid(ve, 1.0, 4), ve.t_min]
    gaps = [a - b for a, b in zip(grid, grid[1:], strict=False)]
    assert gaps == pytest.approx([(1 - ve.t_min) / 4] * 4)


def test_the_fakes_turn_leaves_the_student_alone():
    """Both are given the same samples; only the student's carry its graph, whichever asks first."""
    method, batch = built(first_time=0.7, gan_weight=0.5, critic_weight=0.5), batch_of()
    own = list(method.student.parameters())
    loss = method.loss("fake", batch)
    assert all(g is None for g in torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True))
    assert any(float(g.abs().sum()) > 0 for g in torch.autograd.grad(method.loss("student", batch), own))


def test_no_critic_needs_no_data():
    method = built(gan_weight=0.0)
    assert not method.requires("data") and DMD2().requires("data") and "head" not in vars(method)


def test_student_moves_once_in_so_many_fake_steps():
    assert [len(DMD2(fake_per_student=3).turns(i)) for i in range(4)] == [2, 1, 1, 2]


def test_logistic_losses_by_hand():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0])
    soft = lambda v: torch.log1p(torch.exp(torch.tensor(v)))  # noqa: E731
    expected = (soft(0.0) + soft(-2.0)) / 2 + (soft(1.0) + soft(-1.0)) / 2
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), (soft(-1.0) + soft(1.0)) / 2)


@pytest.mark.parametrize("channels,side", [(16, 1), (24, 3), (56, 7), (8, 8)])
def test_head_brings_features_of_any_size_down_to_one_logit(channels, side):
    head, h = Head(channels, side), torch.ones(3, channels, side, side)
    assert head(h).shape == (3,) and head.down(h).shape == (3, channels, 1, 1)
