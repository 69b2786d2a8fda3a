"""sdxl_lightning: its jumps and their teacher's, what the critic is shown, its stages, and the student of a
noise network."""

import pytest
import torch

from stillhouse.adapters import Adapted
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import jump, predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.prediction import X0
from stillhouse.core.schedules import VE, Cosine, Flow, LinearVP
from stillhouse.io.pipelines import family_for
from stillhouse.io.pipelines.tiny import KINDS
from stillhouse.opening import load
from stillhouse.systems.adversarial.sdxl_lightning import SDXLLightning
from stillhouse.train.batch import Batch
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.train.stage import locate
from stillhouse.worlds.mixture.layouts import make_mixture

torch.set_num_threads(1)
ROWS, TOTAL = 64, 300
WORLD = make_mixture(classes=2)


def built(process=None, kind="velocity", **options) -> SDXLLightning:
    method, process = SDXLLightning(**{"ladder": (8, 4, 2, 1), **options}), process or Flow()
    network = WORLD.network(process, kind=kind, width=16, depth=2)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    method.setup(network, method.make_student(network), WORLD.shape, conditional=True, total=TOTAL)
    return method


def batch_of(step=0, player="student", rows=ROWS) -> Batch:
    x, cond = WORLD.sample_data(rows, Draws(rows, "data"))
    return Batch(
        step, rows, WORLD.shape, x, cond, (player,), lambda name: Draws(rows, step, name), player=player
    )


def at(method, batch):
    """The batch at its place in the run, the method in the stage of its step."""
    method.stage, batch.within = locate(method.plan, batch.step)
    return batch


@pytest.mark.parametrize("process", [Flow(), LinearVP(), VE()])
@pytest.mark.parametrize(("step", "n"), [(0, 4), (100, 2), (200, 1)])
def test_the_teacher_walks_the_jump_in_its_own_steps(process, step, n):
    method = built(process, guidance=3.0, times=1)
    with torch.no_grad():
        for p in method.previous.parameters():
            p += 0.05
    batch = batch_of(step)
    made = method.student_jump(at(method, batch))
    x_t, t, s, landed, target = made.x_t, made.t, made.s, made.x_s, made.target
    source = Guided(method.teacher, 3.0) if n == 4 else method.previous
    low = process.t_min
    share_t, share_s = (t - low) / (1 - low), torch.where(s > 0, (s - low) / (1 - low), 0)
    assert torch.allclose(share_t - share_s, torch.full_like(t, 1 / n), atol=1e-5)
    assert (
        torch.allclose(share_t * n, (share_t * n).round(), atol=1e-4) and ((s == 0) == (share_s < 1e-4)).all()
    )
    middle = low + (1 - low) * (share_t + share_s) / 2
    with torch.no_grad():
        expected = jump(source, jump(source, x_t, t, middle, batch.cond), middle, s, batch.cond)
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(landed, jump(method.student, x_t, t, s, batch.cond))
    eps, top = Draws(ROWS, step, "samples"), t == 1
    eps.integers(1, n + 1)
    assert top.any() and torch.equal(
        x_t[top], (eps.normal(2) * process.prior_std)[top]
    )  # exactly noise, whatever signal is left there


def test_a_student_of_few_steps_is_trained_at_more_times():
    starts = {}
    for times in (1, 4):
        batch = batch_of(250)
        method = built(times=times)
        made = method.student_jump(at(method, batch))
        t, s = made.t, made.s
        starts[times] = t.unique().tolist()
        assert (s == 0).all()
    assert starts == {1: [1.0], 4: [0.25, 0.5, 0.75, 1.0]}


def test_stages_follow_the_ladder_and_relax_halfway():
    method = built()
    assert [stage.length for stage in method.stages(300)] == [100, 100, 100] and method.steps == 1
    numbers = [at(method, batch_of(step)) and method.student_number for step in (0, 99, 100, 199, 200, 299)]
    assert numbers == [0, 0, 1, 1, 2, 2]
    assert method.turns(0) == ["student"] and method.turns(100) == ["critic", "student"]

    def with_start(step, **options):
        method = built(**options)
        return method.with_start(at(method, batch_of(step)))

    assert with_start(100) and with_start(149) and not with_start(150)
    assert with_start(199, relax=1.0) and not with_start(100, relax=0.0)
    moves = [built(plain=plain).turns(step) for plain, step in ((0, 0), (2, 199), (2, 200))]
    assert moves == [["critic", "student"], ["student"], ["critic", "student"]]
    assert set(built(ladder=(8, 4)).players) == {"student"}
    with pytest.raises(StillhouseError, match="too few for 3 stages"):
        method.stages(2)


def test_entering_a_stage_makes_the_student_the_teacher():
    method = built()
    with torch.no_grad():
        for p in method.student.parameters():
            p += 0.1
    method.enter(1)
    x, t = Draws(4, "x").normal(2), torch.full((4,), 0.5)
    assert torch.equal(method.previous(x, t).raw, method.student(x, t).raw)


def shown(step, process=None, **options):
    """What the critic is given at ``step``: landings, their time, and the start."""
    method, batch = built(process, **options), batch_of(step, "critic")
    met = {}
    method.critic.register_forward_pre_hook(
        lambda _m, args: met.update(landed=args[0], s=args[1], start=args[2])
    )
    method.critic_loss(at(method, batch)).backward()
    assert all(p.grad is None for p in method.student.parameters())
    made = batch.memo["shared/student_jump"]
    return met, (made.x_t, made.t, made.s, made.target), method


def test_the_critic_sees_landing_and_start_then_the_landing_alone():
    met, (x_t, t, s, target), method = shown(20, ladder=(16, 8, 4), plain=0)
    assert torch.equal(met["start"][0], x_t) and torch.equal(met["start"][1], t)
    assert torch.equal(met["landed"][0], target) and torch.equal(met["s"], s.clamp_min(1e-3))
    assert any(p.grad is not None and p.grad.any() for p in method.critic.backbone.parameters())
    assert method.critic.alone.out[0].weight.grad is None
    met, _, method = shown(120, ladder=(16, 8, 4), plain=0)
    assert met["start"] is None and method.critic.pair.out[0].weight.grad is None


@pytest.mark.parametrize("process", [Flow(), LinearVP()])
def test_landings_of_one_and_two_steps_are_noised_on_to_the_same_level(process):
    met, (_, _, s, target), method = shown(110, process)
    level = met["s"]
    assert (level >= s).all() and (level > s).any()
    assert {round(v, 2) for v in level[s == 0].tolist()} == {0.01, 0.25, 0.5, 0.75}
    assert {round(v, 2) for v in level[s > 0.4].tolist()} == {0.5, 0.75}
    difference = met["landed"][0] - target * (process.alpha(level) / process.alpha(s))[:, None]
    spread = (
        (process.sigma(level) ** 2 - (process.alpha(level) / process.alpha(s) * process.sigma(s)) ** 2)
        .clamp_min(0)
        .sqrt()
    )
    assert (difference[level == s].abs() < 1e-5).all()
    eps = difference[level > s] / spread[level > s, None]
    assert 0.7 < float(eps.std()) < 1.3
    none, (_, _, s, target), _ = shown(110, process, noise_levels=())
    assert torch.equal(none["landed"][0], target) and torch.equal(none["s"], s.clamp_min(1e-3))


def test_the_critic_starts_as_the_teacher_and_for_a_closed_form_as_the_student():
    teacher, student = (WORLD.network(Flow(), seed, width=16, depth=2) for seed in (0, 1))
    for given, source in ((teacher, teacher), (WORLD.exact(Flow()), student)):
        method = SDXLLightning(ladder=(4, 2, 1))
        method.setup(given, student.copy(), WORLD.shape, conditional=True, total=TOTAL)
        began, made = source.state_dict(), method.critic.backbone.state_dict()
        assert began.keys() == made.keys() and all(torch.equal(made[k], began[k]) for k in began)


def test_the_student_of_a_noise_network_first_learns_to_say_the_clean_image():
    with pytest.raises(StillhouseError, match="set x0_student"):
        built(LinearVP(), kind="eps")
    with pytest.raises(StillhouseError, match="set x0_student"):
        built(Cosine(), kind="eps", ladder=(8, 4))
    built(LinearVP(), kind="eps", ladder=(8, 4))  # with signal left at the top, several steps will do
    method = built(LinearVP(), kind="eps", x0_student=True)
    assert isinstance(method.student.kind, X0) and [s.length for s in method.stages(400)] == [100] * 4
    numbers = [at(method, batch_of(step)) and method.student_number for step in (0, 75, 150, 225)]
    assert numbers == [-1, 0, 1, 2] and method.turns(0) == ["student"]
    at(method, batch_of())
    batch = batch_of()
    loss = method.loss("student", batch)
    draws = Draws(ROWS, 0, "student")
    t = draws.uniform()
    x_t = LinearVP().noise(batch.x, t, draws.normal(2))
    expected = (
        (predict_x0(method.student, x_t, t, batch.cond) - predict_x0(method.teacher, x_t, t, batch.cond))
        .square()
        .mean()
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ladder": (8,)}, "at least two"),
        ({"ladder": (8, 3)}, "divisor"),
        ({"ladder": (4, 8)}, "falling"),
        ({"ladder": (4, 0)}, "falling"),
        ({"ladder": (4, 4)}, "falling"),
        ({"noise_levels": (0.5, 1.0)}, "between 0 and 1"),
        ({"noise_levels": (0.0, 0.5)}, "between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        SDXLLightning(**options)


def test_samples_are_walked_on_trailing_times():
    (way,) = built(ladder=(8, 4, 2)).samplings().values()
    assert way.times == [1.0, 0.5, 0.0] and way.solver == "ddim" and way.guidance == 1
    low = VE().t_min
    assert built(VE(), ladder=(8, 2)).samplings()[2].times == pytest.approx([1.0, low + (1 - low) / 2, 0.0])


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
    method = SDXLLightning(ladder=(4, 2, 1), guidance=6.0, x0_student=True)
    teacher = load(family.denoiser(), shape=family.shape)
    student = Trainer(
        method, teacher, TensorData(x, cond), Recipe(steps=6, batch=2, seed=0, lora=lora), quiet=True
    ).fit()
    assert torch.isfinite(student.sample(2, cond, seed=1)).all() and isinstance(student.denoiser.kind, X0)
    assert isinstance(method.student, Adapted) == isinstance(method.critic.backbone, Adapted) == bool(lora)
