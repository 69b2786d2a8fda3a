"""Progressive distillation: its target, its weights, its ladder, and who learns."""

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import ddim_step, jump
from stillhouse.core.schedules import Cosine, Flow
from stillhouse.models import build_model
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers.ddim import DDIM
from stillhouse.systems.trajectory.progressive import Progressive
from stillhouse.worlds.base import get_world

WORLD = get_world("mixture")


def ready(process, kind="v", **options):
    method = Progressive(**options)
    student = Denoiser(build_model({"name": "mlp", "width": 16, "depth": 1}), process, kind)
    method.setup(WORLD.exact(process), student, WORLD.shape, total=64)
    return method


@pytest.mark.parametrize("process", [Flow(), Cosine()])
@pytest.mark.parametrize("i", [1, 2, 5, 8])
def test_one_step_of_the_target_lands_where_two_of_the_teacher_do(process, i):
    method = ready(process, teacher_steps=16, steps=8)
    x = Draws(32, "x").normal(2, dtype=torch.float64)
    t, middle, s = (torch.full((32,), v / 8, dtype=torch.float64) for v in (i, i - 0.5, i - 1))
    target, teacher = method.target(x, t, middle, s, None), method.teacher
    two = jump(teacher, jump(teacher, x, t, middle), middle, s)
    one = ddim_step(teacher(x, t).with_x0(target), s)
    torch.testing.assert_close(one, two, atol=1e-10, rtol=0)
    ratio = process.sigma(s) / process.sigma(t)
    card = (two - ratio[:, None] * x) / (process.alpha(s) - ratio * process.alpha(t))[:, None]
    torch.testing.assert_close(target, card, atol=1e-10, rtol=0)


def test_the_last_step_asks_for_the_teachers_last_answer():
    method, x = ready(Flow(), teacher_steps=8, steps=4), Draws(32, "x").normal(2, dtype=torch.float64)
    t, middle, s = (torch.full((32,), v, dtype=torch.float64) for v in (0.25, 0.125, 0.0))
    second = method.teacher(jump(method.teacher, x, t, middle), middle).x0
    assert torch.equal(method.target(x, t, middle, s, None), second)


def test_float32_loses_nothing_on_a_fine_grid():
    method, n = ready(Cosine(), teacher_steps=4096, steps=2048), 2048
    x, i = Draws(512, "x").normal(2), Draws(512, "i").integers(1, n + 1)
    times = [(i - k) / n for k in (0, 0.5, 1)]
    rough = method.target(x, *times, None)
    fine = method.target(x.double(), *((i.double() - k) / n for k in (0, 0.5, 1)), None)
    assert (rough - fine).abs().max() < 1e-3  # the quotient of differences would err by 0.01 and more here


def test_a_student_that_agrees_takes_the_teachers_two_steps_in_one():
    """Where the teacher's path is straight, the target is the teacher's own answer: a Gaussian's mean field
    with no spread."""
    world = get_world("mixture", layout="random", modes=1, std=1e-3)
    method = ready(Flow(), teacher_steps=4, steps=2)
    exact, x = world.exact(Flow()), Draws(16, "x").normal(2, dtype=torch.float64)
    method.teacher = exact
    t, middle, s = (torch.full((16,), v, dtype=torch.float64) for v in (1.0, 0.75, 0.5))
    torch.testing.assert_close(method.target(x, t, middle, s, None), exact(x, t).x0, atol=1e-4, rtol=0)


def test_weights_are_the_papers():
    t = torch.tensor([1e-4, 0.25, 0.5, 0.75, 1.0])
    snr = ((1 - t) / t) ** 2
    truncated, plus = (
        ready(Flow(), weight="truncated_snr").weigh(t),
        ready(Flow(), weight="snr_plus_one").weigh(t),
    )
    assert torch.allclose(truncated[1:], snr[1:].clamp_min(1)) and torch.allclose(plus[1:], snr[1:] + 1)
    assert 400 < truncated[0] < 410 and truncated[-1] == plus[-1] == 1


def lengths(method, total):
    return [stage.length for stage in method.stages(total)]


def test_the_ladder_halves_and_the_last_two_stages_are_double():
    method = Progressive(64, 1)
    assert method.ladder == [32, 16, 8, 4, 2, 1] and Progressive(64, 4).ladder == [32, 16, 8, 4]
    assert lengths(method, 4000) == [500, 500, 500, 500, 1000, 1000] and sum(lengths(method, 4007)) == 4007
    assert lengths(Progressive(64, 4), 2000) == [500] * 4
    with pytest.raises(StillhouseError, match="too few for 6 halvings"):
        method.stages(5)
    with pytest.raises(StillhouseError, match="times 2, 4, 8"):
        Progressive(64, 3)


def test_entering_a_stage_makes_the_student_the_teacher():
    method = ready(Flow(), teacher_steps=8, steps=1)
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(0.1)
    method.enter(1)
    method.stage = 1
    x, t = Draws(4, "x").normal(2), torch.full((4,), 0.5)
    assert torch.equal(method.previous(x, t).x0, method.student(x, t).x0)
    with torch.no_grad():
        walk = rollout(method.student, x, [0.5, 0.375, 0.25], DDIM())
        lands = ddim_step(
            method.student(x, t).with_x0(method.target(x, t, t - 0.125, t - 0.25, None)), t - 0.25
        )
    torch.testing.assert_close(lands, walk, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["eps", "score"])
def test_a_noise_student_is_refused_where_no_signal_is_left(kind):
    with pytest.raises(StillhouseError, match="holds no clean image"):
        ready(Cosine(), kind=kind)
