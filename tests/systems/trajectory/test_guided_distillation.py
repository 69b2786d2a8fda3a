"""Guided distillation: the scale as an input sample by sample, the halvings that hear it, the stochastic
sampler."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import ddim_step, jump, predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.schedules import Cosine, Flow
from stillhouse.model import Model
from stillhouse.parts.targets.halving import halving_target
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers.simple import Leap
from stillhouse.systems.trajectory.guided_distillation import GuidedDistillation
from stillhouse.train.batch import Batch
from stillhouse.worlds.base import get_world

WORLD, COSINE = get_world("mixture", classes=4), Cosine()


def stirred(module, scale=0.3):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * scale)
    return module


def ready(process=COSINE, kind="v", conditional=True, **options):
    method = GuidedDistillation(**options)
    student = WORLD.network(
        process, 0, kind=kind, width=16, depth=1, classes=4, guidance_input=method.takes_guidance
    )
    method.setup(WORLD.exact(process), stirred(student), WORLD.shape, conditional, total=100)
    return method


def batch_of(rows=64, step=0):
    x, labels = WORLD.sample_data(rows, Draws(rows, "data"))
    return Batch(step, rows, WORLD.shape, x, labels, ("student",), lambda name: Draws(rows, step, name))


def scales_given(method, name):
    """What the denoiser ``name`` of a method is told as guidance, call by call."""
    told, denoiser = [], getattr(method, name)
    denoiser.register_forward_pre_hook(
        lambda module, args, extra: told.append(extra.get("guidance")), with_kwargs=True
    )
    return told


def test_every_sample_has_a_scale_of_its_own_and_the_student_is_told_it():
    method = ready(low_guidance=1.0, high_guidance=4.0)
    told, asked = scales_given(method, "student"), []
    usual = method.guided_teacher
    method.guided_teacher = lambda w: asked.append(w) or usual(w)
    method.student_loss(batch_of())
    assert (
        torch.equal(told[0], asked[0])
        and len(told[0].unique()) == 64
        and 1 <= told[0].min() < 1.5 < 3.5 < told[0].max() < 4
    )


def test_the_first_stage_asks_for_the_guided_estimate():
    method, x, t = ready(), Draws(64, "x").normal(2), torch.linspace(0.1, 1, 64)
    w, labels = torch.linspace(1, 4, 64), torch.arange(64) % 4
    exact = method.teacher
    expected = exact(x, t).x0 + w[:, None] * (exact(x, t, labels).x0 - exact(x, t).x0)
    torch.testing.assert_close(method.guided_teacher(w)(x, t, labels).x0, expected)


def test_later_stages_tell_teacher_and_student_the_same_scale():
    method = ready(teacher_steps=8, steps=2)
    method.plan = method.stages(100)
    assert method.ladder == [4, 2] and [s.length for s in method.stages(100)] == [40, 20, 40]
    method.stage = 1
    method.enter(1)
    told, previous = scales_given(method, "student"), scales_given(method, "previous")
    method.student_loss(batch_of(step=1))
    assert len(previous) == 2 and all(torch.equal(w, told[0]) for w in previous)


def test_one_scale_is_baked_in():
    method = ready(low_guidance=3.0, high_guidance=3.0)
    told = scales_given(method, "student")
    method.student_loss(batch_of())
    assert told == [None] and method.samplings()[2].guidance == 1
    model = Model(ready().student, WORLD.shape, 4, ready().samplings())
    assert model.sampling().guidance == 2.5 and model.sampling().nfe(model.denoiser) == 2


def test_the_extra_stage_teaches_the_jumps_that_the_stochastic_sampler_makes():
    method = ready(teacher_steps=16, steps=8, stochastic=True)
    method.plan = method.stages(100)
    assert [stage.length for stage in method.plan] == [40, 30, 30]
    short = GuidedDistillation(teacher_steps=8, steps=2, guidance_share=0.01)
    assert [stage.length for stage in short.stages(10)] == [1, 3, 6]
    assert ready(stochastic=True, steps=2).ladder == [32, 16, 8, 4, 2]
    way = method.samplings()[8]
    assert way.solver == "leap" and ready(steps=8).samplings()[8].solver == "ddim"
    assert (
        way.times == [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0] and way.nfe(method.student) == 8
    )
    method.stage = 2
    t, middle, s = method.draw_times(batch_of(512))
    last = t == 1 / 8  # the teacher's own step to the clean end
    assert (middle[last] == t[last]).all() and (s[last] == 0).all() and 0 < last.sum() < 512
    assert torch.allclose((t - s)[~last], torch.tensor(0.25))
    assert torch.allclose((t - middle)[~last], torch.tensor(0.125))
    assert set(t.tolist()) == {k / 8 for k in range(1, 9)}
    x_t, labels = torch.randn(512, 2), torch.arange(512) % 4
    with torch.no_grad():
        target = halving_target(method.previous, x_t, t, middle, s, labels, torch.full((512,), 2.0))
        own = method.previous(x_t, t, labels, guidance=torch.full((512,), 2.0)).x0
    torch.testing.assert_close(target[last], own[last])
    visited = []
    predict = method.student.forward
    method.student.forward = lambda x, t, *rest, **extra: (
        visited.append(float(t[0])) or predict(x, t, *rest, **extra)
    )
    Model(method.student, WORLD.shape, 4, method.samplings()).sample(8)
    assert set(visited) == set(t.tolist())


@pytest.mark.parametrize("process", [Flow(), Cosine()])
def test_a_leap_lands_twice_as_low_and_comes_half_the_way_back(process):
    world = get_world("mixture", layout="random", modes=1, std=1e-4)
    exact, rows = world.exact(process), 40_000
    x0 = world.means[0].float()
    x = process.noise(x0.expand(rows, 2), torch.full((rows,), 0.8), Draws(rows, "noise").normal(2))
    t, s, draws = torch.full((rows,), 0.8), torch.full((rows,), 0.6), Draws(rows, "leap")
    at = Leap().step(lambda x, t, s: exact(x, t), x, t, s, None, draws)
    eps = (at - process.alpha(s)[0] * x0) / process.sigma(s)[0]
    assert abs(float(eps.std()) - 1) < 0.01 and float(eps.mean(0).norm()) < 0.02
    below = jump(exact, x, t, torch.full((rows,), 0.4))  # what the new noise has been added to
    scale = process.alpha(s)[0] / process.alpha(t - 0.4)[0]
    added = process.sigma(s)[0] ** 2 - (scale * process.sigma(t - 0.4)[0]) ** 2
    assert abs(float((at - scale * below).var() / added) - 1) < 0.02


def test_many_leaps_keep_a_gaussian():
    world, rows = get_world("mixture", layout="grid", side=1, std=0.7), 20_000
    times = [*(k / 192 for k in range(192, 1, -1)), 0.0]
    made = rollout(
        world.exact(Flow()), Draws(rows, "start").normal(2), times, Leap(), draws=Draws(rows, "walk")
    )
    assert abs(float(made.std()) - 0.7) < 0.018  # first order: 0.032 off at 64 intervals


def test_a_step_of_the_target_under_guidance_is_two_of_the_guided_teacher():

    exact, x = WORLD.exact(Cosine()), Draws(32, "x").normal(2, dtype=torch.float64)
    guided, labels = Guided(exact, 3.0), torch.arange(32) % 4
    t, middle, s = (torch.full((32,), v, dtype=torch.float64) for v in (0.9, 0.7, 0.5))
    target = halving_target(guided, x, t, middle, s, labels)
    two = jump(guided, jump(guided, x, t, middle, labels), middle, s, labels)
    torch.testing.assert_close(ddim_step(guided(x, t, labels).with_x0(target), s), two, atol=1e-10, rtol=0)
    assert (predict_x0(guided, x, t, labels) - predict_x0(exact, x, t, labels)).abs().max() > 1e-3


def test_without_guidance_no_condition_is_needed():
    assert not ready(conditional=False, low_guidance=1.0, high_guidance=1.0).conditional


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low_guidance": 3.0, "high_guidance": 2.0}, "low to high"),
        ({"stochastic": True, "steps": 1}, "2 steps or more"),
        ({"steps": 3}, "times 2, 4, 8"),
        ({"conditional": False}, "needs conditions"),
        ({"kind": "eps"}, "holds no clean image"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(StillhouseError, match=words):
        ready(**options)


def test_it_runs_on_a_pipeline(tmp_path):
    from stillhouse.io.pipelines import open_pipeline
    from stillhouse.io.pipelines.tiny import build

    family = open_pipeline(build("sd", tmp_path / "sd"))
    method, teacher = (
        GuidedDistillation(low_guidance=2.0, high_guidance=8.0, teacher_steps=8),
        family.denoiser(),
    )
    method.setup(teacher, method.make_student(teacher), family.shape, True, total=100)
    x, cond = Draws(2, "x").normal(*family.shape), family.encode(["a cat", "a dog"])
    for stage in (0, 1):
        method.stage = stage
        loss = method.student_loss(
            Batch(0, 2, family.shape, x, cond, ("student",), lambda name: Draws(2, 0, name), player="student")
        )
        loss.backward()
        assert (
            torch.isfinite(loss)
            and float(method.student.net.time_embedding.cond_proj.weight.grad.abs().sum()) > 0
        )
        method.enter(1)
