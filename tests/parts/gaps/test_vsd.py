import pytest
import torch
from torch import Tensor

from stillhouse.adapters import Adapted, adapted
from stillhouse.core.conditions import drop_condition
from stillhouse.core.draws import Draws
from stillhouse.core.guidance import Guided
from stillhouse.core.schedules import VE, Flow, ScaledLinearVP
from stillhouse.parts.gaps.score import noise_share
from stillhouse.parts.gaps.vsd import fake_denoising, fake_times, lora_fake, vsd_gradient
from stillhouse.worlds.mixture.layouts import make_mixture
from stillhouse.worlds.mixture.world import Mixture
from tests.parts.affine import affine, f64

ROWS = 6


def gaussian(mean: float, std: float) -> Mixture:
    """One point with one label."""
    return Mixture(torch.full((1, 2), mean), torch.tensor([std]), torch.ones(1), torch.zeros(1))


def points(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = Draws(ROWS, seed, "points")
    return (
        draws.normal(2, dtype=torch.float64),
        draws.uniform(0.1, 0.9, dtype=torch.float64),
        draws.normal(2, dtype=torch.float64),
    )


def test_pull_is_the_difference_of_scores_by_hand():
    process, (x, t, eps) = ScaledLinearVP(), points()
    real, fake = gaussian(1.0, 0.5), gaussian(-0.5, 0.3)
    x_t = process.noise(x, t, eps)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]

    def score(mean: float, std: float) -> Tensor:
        return (alpha * mean - x_t) / ((alpha * std) ** 2 + sigma**2)

    expected = sigma**3 * (score(-0.5, 0.3) - score(1.0, 0.5))  # eps = -sigma score
    torch.testing.assert_close(vsd_gradient(x, t, eps, real.exact(process), fake.exact(process)), expected)


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_equal_scores_pull_nowhere_under_any_guidance(scale):
    x, t, eps = points()
    one, two = (make_mixture(classes=2).exact(Flow()) for _ in range(2))
    labels = torch.arange(ROWS) % 2
    assert torch.equal(
        vsd_gradient(x, t, eps, Guided(one, scale), Guided(two, scale), labels), torch.zeros_like(x)
    )
    if scale != 1:  # and guidance on one side alone does
        assert float(vsd_gradient(x, t, eps, Guided(one, scale), two, labels).abs().max()) > 1e-3


def test_pull_is_the_same_on_every_process():
    """Equal states under another process: equal noise, equal weight."""
    from stillhouse.core.process import convert

    x, t, eps = points()
    vp, real, fake = ScaledLinearVP(), gaussian(1.0, 0.5), gaussian(-0.5, 0.3)
    expected = vsd_gradient(x, t, eps, real.exact(vp), fake.exact(vp))
    for other in (VE(), Flow()):
        there = convert(x, t, vp, other)[1]
        torch.testing.assert_close(
            vsd_gradient(x, there, eps, real.exact(other), fake.exact(other)), expected, rtol=1e-6, atol=1e-8
        )


def test_pull_carries_no_gradient_and_no_nan():
    x, t, eps = points()
    world = gaussian(0.0, 1.0)
    broken = world.exact(Flow())
    broken.mean = lambda *_: torch.full_like(x, torch.nan)  # type: ignore[method-assign]
    made = vsd_gradient(x.requires_grad_(), t, eps, broken, world.exact(Flow()))
    assert not made.requires_grad and torch.equal(made, torch.zeros_like(made))


def test_fakes_loss_is_least_at_the_exact_score_and_weighted_by_alpha():
    process, world = ScaledLinearVP(), gaussian(0.5, 0.4)
    draws = Draws(20_000, "loss")
    x = world.sample_data(20_000, draws)[0].double()
    t, eps = fake_times(process, draws).double(), draws.normal(2, dtype=torch.float64)
    exact, other = world.exact(process), gaussian(0.7, 0.4).exact(process)
    assert float(fake_denoising(exact, x, t, eps)) < float(fake_denoising(other, x, t, eps))
    pred = exact(process.noise(x, t, eps), t).eps
    by_hand = (process.alpha(t)[:, None] * (pred - eps)).square().mean()
    torch.testing.assert_close(fake_denoising(exact, x, t, eps), by_hand)
    at = exact(x, t).at
    torch.testing.assert_close(noise_share(at), at.sigma**2)  # variance-preserving
    assert float(t.min()) >= 1e-3


def test_prompts_are_dropped_for_the_whole_batch():
    cond = torch.arange(ROWS)
    made = [drop_condition(cond, Draws(ROWS, seed, "drop").one_uniform() < 0.1) for seed in range(400)]
    assert all(c is None or torch.equal(c, cond) for c in made)
    assert 20 <= sum(c is None for c in made) <= 62  # 40 expected, deviation 6
    assert drop_condition(cond, False) is cond and drop_condition(cond, True) is None


def test_fake_is_an_adapter_on_the_teacher_that_starts_as_it():
    world = make_mixture()
    teacher = world.network(Flow(), width=16, depth=1).requires_grad_(False)
    x, t, labels = torch.randn(4, 2), torch.rand(4), torch.arange(4)
    before = teacher(x, t, labels).raw
    fake = lora_fake(teacher, teacher, 2, 4.0)
    assert (
        isinstance(fake, Adapted)
        and fake.base.net is teacher.net
        and fake.base.rank == 2
        and fake.base.alpha == 4.0
    )
    assert torch.equal(fake(x, t, labels).raw, before)
    with torch.no_grad():
        for p in fake.parameters():
            p += 0.1
    assert torch.equal(teacher(x, t, labels).raw, before) and not torch.equal(fake(x, t, labels).raw, before)
    base = adapted(world.network(Flow(), width=16, depth=1), 3)
    mine = lora_fake(base, base, 64, 1.0)
    assert isinstance(mine, Adapted) and mine.base is base.base  # the run's own base and rank
    whole = lora_fake(world.network(Flow(), width=16, depth=1), teacher, 0, 1.0)
    assert not isinstance(whole, Adapted)
    student = world.network(Flow(), width=8, depth=1)
    copied = lora_fake(world.exact(Flow()), student, 64, 1.0)
    assert not isinstance(copied, Adapted) and copied.net is not student.net


def test_the_fakes_loss_under_a_condition_by_hand():
    x, t, eps = f64([[1.0, -2.0]]), f64([0.25]), f64([[0.3, 0.7]])
    x_t = 0.75 * x + 0.25 * eps
    predicted = (x_t - 0.75 * (0.5 * x_t + 0.5 + 0.9)) / 0.25
    weight = 0.75**2 / (0.75**2 + 0.25**2)
    made = fake_denoising(affine(0.5, 2.0), x, t, eps, f64([0.9]))
    torch.testing.assert_close(made, weight * ((predicted - eps) ** 2).sum() / 2)


def test_both_scores_are_under_the_condition():
    x, t, eps = f64([[1.0, -2.0]]), f64([0.25]), f64([[0.3, 0.7]])
    x_t = 0.75 * x + 0.25 * eps
    real, fake = 0.5 * x_t + 0.5 + 0.9, -0.3 * x_t + 0.25 + 0.9
    share = 0.25**2 / (0.75**2 + 0.25**2)
    made = vsd_gradient(x, t, eps, affine(0.5, 2.0), affine(-0.3, 1.0), f64([0.9]))
    torch.testing.assert_close(made, share * 3 * (fake - real))  # eps = (x_t - 0.75 D) / 0.25


def test_times_of_the_fake_go_from_the_first_step_to_the_last():
    u = Draws(50, "t").uniform()
    torch.testing.assert_close(fake_times(Flow(), Draws(50, "t")), 1e-3 + 0.999 * u)
