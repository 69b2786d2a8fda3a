"""flash_diffusion: where it starts, what it is asked for, and how its two other terms come in."""

import pytest
import torch

from stillhouse.adapters import Adapted
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import ddim_step
from stillhouse.core.guidance import Guided
from stillhouse.core.schedules import VE, Flow, LinearVP
from stillhouse.io.pipelines import family_for
from stillhouse.io.pipelines.tiny import KINDS
from stillhouse.opening import load
from stillhouse.systems.adversarial.flash_diffusion import FlashDiffusion
from stillhouse.train.batch import Batch
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.layouts import make_mixture

torch.set_num_threads(1)
ROWS, TOTAL = 64, 400
WORLD = make_mixture(classes=2)


def built(process=None, **options) -> FlashDiffusion:
    method, process = FlashDiffusion(**{"grid": 8, "solver": "ddim", **options}), process or Flow()
    student = WORLD.network(process, width=16, depth=2)
    with torch.no_grad():
        for p in student.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    method.setup(WORLD.exact(process), student, WORLD.shape, conditional=True, total=TOTAL)
    return method


def batch_of(step=0, player="student", rows=ROWS) -> Batch:
    x, cond = WORLD.sample_data(rows, Draws(rows, "data"))
    return Batch(
        step, rows, WORLD.shape, x, cond, (player,), lambda name: Draws(rows, step, name), player=player
    )


def test_starts_move_from_low_noise_to_pure_noise():
    method = built(grid=32, adversarial=0.0)
    laws = [method.start_law(step) for step in (0, 100, 200, 300)]
    assert all(float(law.sum()) == pytest.approx(1) for law in laws)
    top, low = [float(law[:4].sum()) for law in laws], [float(law[12:].sum()) for law in laws]
    assert top[0] < 1e-8 and top[1] < top[2] < top[3] and 0.2 < top[3] < 0.4
    assert low[0] > 0.99 and low[0] > low[1] > low[2] > low[3]
    bump = laws[0][14:19] / laws[0][16]  # exp(-d^2 / 0.5): no factor 2
    assert bump.tolist() == pytest.approx([3.35e-4, 0.1353, 1.0, 0.1353, 3.35e-4], rel=1e-2)
    assert method.quarter(99) == 0 and method.quarter(100) == 1 and method.quarter(TOTAL) == 3


@pytest.mark.parametrize("process", [Flow(), LinearVP(), VE()])
def test_the_whole_batch_starts_at_one_time_and_from_pure_noise_at_the_top(process):
    method, met = built(process, adversarial=0.0), {}
    for step in range(300, 340):
        batch = batch_of(step)
        x_t, j, _ = method.student_estimate(batch)
        eps = Draws(ROWS, step, "student").normal(2)
        t = torch.full((ROWS,), method.times[j])
        expected = eps * process.prior_std if j == 0 else process.noise(batch.x, t, eps)
        assert torch.equal(x_t, expected)
        met[j] = met.get(j, 0) + 1
    assert 0 in met and len(met) >= 3 and method.times[0] == 1 and method.times[-1] == 0


@pytest.mark.parametrize("j", [0, 3, 7])
def test_the_target_is_where_the_guided_teacher_ends_from_mid_grid(j):
    method = built(adversarial=0.0, low_guidance=3.0, high_guidance=3.0)
    batch = batch_of()
    x, cond, guided = Draws(ROWS, "x").normal(2), batch.cond, Guided(method.teacher, 3.0)
    expected = x
    for t, s in zip(method.times[j:], method.times[j + 1 :], strict=False):
        expected = ddim_step(guided(expected, torch.full((ROWS,), t), cond), torch.full((ROWS,), s))
    made = method.endpoint(x.requires_grad_(), j, method.guided(batch, "endpoint"), cond)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    assert not made.requires_grad


def test_guidance_is_one_number_a_step_and_fresh_for_each_purpose():
    method = built(adversarial=0.0, low_guidance=3.0, high_guidance=13.0)
    scales = [
        method.guided(batch_of(step), purpose).scale
        for step in range(20)
        for purpose in ("endpoint", "matching")
    ]
    assert len(set(scales)) == 40 and 3 <= min(scales) < 5 and 11 < max(scales) <= 13


def test_the_student_is_its_own_fake_score_without_gradient():
    method, batch = built(matching=0.7, adversarial=0.0), batch_of(300)
    asked = []
    method.student.register_forward_hook(lambda _m, _a, pred: asked.append(pred.raw.requires_grad))
    method.student_loss(batch)
    assert asked == [True, False]


def test_real_and_fake_meet_the_critic_at_the_same_times_with_the_same_noise():
    method, met = built(), []
    method.feature_net.register_forward_pre_hook(lambda _m, args: met.append(args[:2]))
    batch = batch_of(step=300, player="critic")
    one, two = method.logits([batch.data, batch.data], batch)
    assert torch.equal(met[0][0], met[1][0]) and torch.equal(one, two)
    assert set(met[0][1].unique().tolist()) == {float(torch.tensor(t)) for t in (0.01, 0.25, 0.5, 0.75)}
    met.clear()
    loss = method.critic_loss(batch_of(step=300, player="critic"))
    assert len(met) == 2 and not torch.equal(met[0][0], met[1][0]) and torch.equal(met[0][1], met[1][1])
    loss.backward()
    assert all(p.grad is None for p in method.student.parameters())
    assert any(p.grad is not None and p.grad.any() for p in method.head.parameters())


def test_its_calls_are_told_the_times_it_learned_at():
    method = built(steps=2)
    ways = method.samplings()
    assert (
        list(ways) == [2, 1, 4]
        and ways[4].times == [1.0, 0.75, 0.5, 0.25, 0.0]
        and ways[2].solver == "renoise"
    )
    fine = built(grid=16)
    modes = {j for step in range(0, TOTAL, 100) for j in range(16) if fine.start_law(step)[j] > 0.09}
    assert {fine.times[j] for j in modes} == set(ways[4].times) - {0.0}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"grid": 10}, "multiple of 4"),
        ({"steps": 3}, "1, 2 or 4"),
        ({"low_guidance": 4.0, "high_guidance": 2.0}, "low to high"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        FlashDiffusion(**options)


@pytest.mark.parametrize("lora", [0, 2])
def test_on_a_diffusers_pipeline(lora):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = KINDS["sd"]()
    family = family_for(type(pipe).__name__)(pipe)
    family.network.middle = "mid_block"
    cond, x = (
        family.encode(["a red circle", "a cat"]),
        torch.randn(2, *family.shape, generator=torch.Generator().manual_seed(0)),
    )
    method = FlashDiffusion(grid=4, low_guidance=3.0, high_guidance=9.0)
    teacher = load(family.denoiser(), shape=family.shape)
    student = Trainer(
        method, teacher, TensorData(x, cond), Recipe(steps=4, batch=2, seed=0, lora=lora), quiet=True
    ).fit()
    for steps in (1, 2, 4):
        assert torch.isfinite(student.sample(2, cond, steps=steps, seed=1)).all()
    assert isinstance(method.student, Adapted) == bool(lora) and method.feature_net is method.teacher
