"""Latent consistency models: the grid and the boundary are those of Diffusers' scheduler; guidance; where the
chain ends."""

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import jump, predict_x0
from stillhouse.core.guidance import Guided, takes_guidance
from stillhouse.core.prediction import Bounded
from stillhouse.core.schedules import Flow, ScaledLinearVP
from stillhouse.io.weights import kind_config, kind_from_config
from stillhouse.model import Model
from stillhouse.models import build_model
from stillhouse.parts.gaps.distances import elementwise_huber
from stillhouse.parts.players.students import with_inputs
from stillhouse.systems.trajectory.lcm import LCM
from stillhouse.train.batch import Batch
from stillhouse.worlds.base import get_world

WORLD, TABLE = get_world("mixture", classes=4), ScaledLinearVP()


def ready(process=TABLE, kind="v", conditional=True, **options):
    method = LCM(**options)
    student = WORLD.network(
        process, 0, kind=kind, width=16, depth=1, classes=4, guidance_input=method.takes_guidance
    )
    method.setup(WORLD.exact(process), student, WORLD.shape, conditional, total=100)
    return method


def batch_of(rows=64):
    x, labels = WORLD.sample_data(rows, Draws(rows, "data"))
    return Batch(0, rows, WORLD.shape, x, labels, ("student",), lambda name: Draws(rows, 0, name))


def scheduler(kind="epsilon"):
    from diffusers import LCMScheduler

    return LCMScheduler(prediction_type=kind)


@pytest.mark.parametrize("calls", [1, 2, 4, 8])
def test_calls_are_made_at_the_schedulers_times(calls):
    theirs = scheduler()
    theirs.set_timesteps(calls)
    way = ready().samplings()[calls]
    index = [round(TABLE.steps * t - 1) for t in way.times[:-1]]
    assert (
        index == theirs.timesteps.tolist()
        and way.times[-1] == 0
        and way.start == 1.0
        and way.solver == "renoise"
    )


@pytest.mark.parametrize(("kind", "name"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_the_clean_end_is_the_schedulers(kind, name):
    """Every step of four: network output in, what the sampler takes for the clean end out."""
    theirs, method = scheduler(name), ready(kind=kind)
    theirs.set_timesteps(4)
    assert method.student.kind == Bounded(kind) and method.target.kind == Bounded(kind)
    x = Draws(16, "x").normal(2)
    for index in theirs.timesteps:
        pred = method.student(x, torch.full((16,), (int(index) + 1) / 1000), torch.arange(16) % 4)
        theirs._step_index = None
        denoised = theirs.step(
            pred.raw, int(index), x, generator=torch.Generator().manual_seed(0), return_dict=False
        )[1]
        torch.testing.assert_close(pred.x0, denoised, atol=2e-5, rtol=1e-4)


def test_at_the_first_step_of_the_table_it_is_the_state_and_far_from_it_the_network():
    student, x = ready().student, Draws(16, "x").normal(2)
    assert torch.equal(predict_x0(student, x, torch.full((16,), 1 / 1000)), x) and torch.equal(
        predict_x0(student, x, torch.zeros(16)), x
    )
    plain = Denoiser(student.net, TABLE, "v")
    late = torch.full((16,), 0.5)
    torch.testing.assert_close(predict_x0(student, x, late), predict_x0(plain, x, late), atol=1e-4, rtol=0)
    near = torch.full((16,), 2 / 1000)
    share = 0.25 / (100 + 0.25)
    out = 10 / (100 + 0.25) ** 0.5
    torch.testing.assert_close(predict_x0(student, x, near), share * x + out * predict_x0(plain, x, near))


def test_the_boundary_is_saved_and_its_target_is_what_the_network_should_have_said():
    kind = Bounded("v", 1000)
    assert kind_from_config(kind_config(kind)) == kind
    denoiser = ready().student.double()
    x0, eps, t = (
        Draws(8, "a").normal(2, dtype=torch.float64),
        Draws(8, "b").normal(2, dtype=torch.float64),
        torch.full((8,), 0.3).double(),
    )
    x_t = TABLE.noise(x0, t, eps)
    at = denoiser(x_t, t).at
    torch.testing.assert_close(kind.x0(kind.target(x0, eps, at), at), x0)
    torch.testing.assert_close(kind.eps(kind.target(x0, eps, at), at), eps)
    with pytest.raises(StillhouseError, match="no prediction kind 'w'"):
        Bounded("w").x0(x0, at)


def test_a_pair_is_one_guided_ddim_step_apart_and_the_chain_ends_at_the_state():
    method, batch = ready(low_guidance=1.0, high_guidance=4.0), batch_of()
    grid, w, x = method.grid.float(), torch.linspace(1, 4, 64), Draws(64, "x").normal(2)
    assert (
        len(grid) == 51
        and torch.allclose(grid[:3] * 1000, torch.tensor([1000.0, 980.0, 960.0]))
        and float(grid[-1]) == pytest.approx(1e-3)
    )
    t, u = grid[3].expand(64), grid[4].expand(64)
    step = jump(Guided(method.teacher, w), x, t, u, batch.cond)
    torch.testing.assert_close(
        method.target_x0(x, t, u, batch, w), predict_x0(method.target, step, u, batch.cond, w)
    )
    last = jump(Guided(method.teacher, w), x, grid[-2].expand(64), grid[-1].expand(64), batch.cond)
    assert torch.equal(method.target_x0(x, grid[-2].expand(64), grid[-1].expand(64), batch, w), last)


def test_one_scale_is_baked_in_and_the_student_may_be_its_own_target():
    method, batch = ready(low_guidance=3.0, high_guidance=3.0, decay=0.0), batch_of()
    assert method.target is method.student and not method.emas and method.samplings()[4].guidance == 1
    x, t, u = Draws(64, "x").normal(2), torch.full((64,), 0.5), torch.full((64,), 0.48)
    expected = predict_x0(
        method.student, jump(Guided(method.teacher, 3.0), x, t, u, batch.cond), u, batch.cond
    )
    torch.testing.assert_close(method.target_x0(x, t, u, batch, None), expected)


def test_a_student_may_take_as_many_calls_as_there_are_levels():
    assert list(ready(Flow(), "velocity", levels=4, steps=4).samplings()) == [4, 1, 2]
    assert list(ready(Flow(), "velocity", levels=8, steps=1).samplings()) == [1, 2, 4, 8]


def test_without_guidance_no_condition_is_needed():
    assert not ready(conditional=False, low_guidance=1.0, high_guidance=1.0).conditional


def test_a_flow_has_its_own_boundary_and_an_even_grid():
    method = ready(Flow(), "velocity", levels=10)
    assert type(method.student.kind).__name__ == "Velocity"
    torch.testing.assert_close(method.grid, torch.linspace(1, 0, 11, dtype=torch.float64))
    assert method.samplings()[2].times == [1.0, 0.5, 0.0]


def test_huber_is_taken_element_by_element():
    a, b = torch.tensor([[3.0, 0.0], [0.0, 1e-4]]), torch.zeros(2, 2)
    expected = torch.tensor([(9 + 1e-6) ** 0.5 - 1e-3, (1e-8 + 1e-6) ** 0.5 - 1e-3]) / 2
    torch.testing.assert_close(elementwise_huber(a, b), expected)


def test_a_students_guidance_is_one_call():
    method = ready(low_guidance=1.0, high_guidance=4.0)
    model = Model(method.student, WORLD.shape, 4, method.samplings())
    assert model.sampling(2).nfe(model.denoiser) == 2 and model.sampling().guidance == 2.5


def test_a_diffusers_unet_grows_an_ear_that_starts_silent(tmp_path):
    from stillhouse.io.pipelines import open_pipeline
    from stillhouse.io.pipelines.tiny import build

    family = open_pipeline(build("sd", tmp_path / "sd"))
    teacher = family.denoiser()
    student = with_inputs(teacher, guidance_input=True)
    assert (
        takes_guidance(student)
        and not takes_guidance(teacher)
        and student.net.config.time_cond_proj_dim == 256
    )
    x, t, cond = Draws(2, "x").normal(*family.shape), torch.full((2,), 0.5), family.encode(["a cat", "a dog"])
    with torch.no_grad():
        torch.testing.assert_close(
            student(x, t, cond, guidance=torch.full((2,), 8.0)).raw, teacher(x, t, cond).raw
        )
    method = LCM(low_guidance=2.0, high_guidance=8.0, levels=10, steps=2)
    method.setup(teacher, student, family.shape, True)
    batch = Batch(0, 2, family.shape, x, cond, ("student",), lambda name: Draws(2, 0, name))
    method.student_loss(batch).backward()
    assert float(student.net.time_embedding.cond_proj.weight.grad.abs().sum()) > 0
    assert student.kind == Bounded("eps") and teacher.kind != student.kind


def test_what_cannot_hear_is_refused():
    from stillhouse.adapters import adapted

    teacher = Denoiser(build_model({"name": "mlp", "width": 16, "classes": 4}), TABLE, "v")
    with pytest.raises(StillhouseError, match="An adapter has the inputs of its base"):
        LCM(low_guidance=1.0, high_guidance=4.0).make_student(adapted(teacher, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low_guidance": 9.0, "high_guidance": 2.0}, "low to high"),
        ({"steps": 51}, "51 calls"),
        ({"levels": 1000}, "no 1000 levels"),
        ({"conditional": False}, "needs conditions"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(StillhouseError, match=words):
        ready(**options)
