"""hyper_sd: segments, their targets, the reward's hinge, the score stage, and how its students are
sampled."""

import pytest
import torch

from stillhouse.adapters import Adapted
from stillhouse.checks.trajectory.hyper_sd import across
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import jump, predict_x0
from stillhouse.core.schedules import VE, Cosine, Flow
from stillhouse.io.pipelines import family_for
from stillhouse.io.pipelines.tiny import KINDS
from stillhouse.opening import load
from stillhouse.parts.gaps.score import dmd_gradient
from stillhouse.solvers.simple import Renoise
from stillhouse.systems.trajectory.hyper_sd import HyperSD
from stillhouse.train.batch import Batch
from stillhouse.train.data import TensorData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.train.stage import locate
from stillhouse.worlds.mixture.layouts import make_mixture

torch.set_num_threads(1)
ROWS = 64
WORLD = make_mixture(classes=2)
ALL = {
    "segments": 2,
    "levels": 4,
    "critic": 1.0,
    "reward": "stillhouse.checks.trajectory.hyper_sd:across",
    "reward_share": 0.25,
    "score_share": 0.25,
    "pairs": 0,
}


def built(process=None, kind="velocity", teacher=None, total=8, **options) -> HyperSD:
    method, process = HyperSD(**options), process or Flow()
    student = WORLD.network(process, kind=kind, width=16, depth=2)
    with torch.no_grad():
        for p in student.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    method.setup(teacher or WORLD.exact(process), student, WORLD.shape, conditional=True, total=total)
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


def test_landings_agree_where_the_paths_are_straight():
    """A single point of data makes every path a line: the exact denoiser is consistent with itself, whatever
    the segments."""
    point = make_mixture("random", modes=1, std=1e-4)
    for segments in (1, 4):
        method = built(teacher=point.exact(Flow()), segments=segments, last_segments=segments, levels=8)
        method.student = method.target = method.teacher
        batch = batch_of()
        made = method.segment_jump.__wrapped__(method, batch)
        torch.testing.assert_close(made.x_s, made.target, atol=1e-3, rtol=0)


@pytest.mark.parametrize("segments", [1, 2, 8])
def test_the_target_is_the_slow_copys_landing_and_at_the_segments_end_the_state_itself(segments):
    method = built(segments=segments, last_segments=segments, levels=8, guidance=2.0)
    asked = []
    method.target.register_forward_hook(lambda _m, args, _said: asked.append(args[:2]))
    batch = batch_of()
    made = method.segment_jump(batch)
    (x_u, u), target, s = asked[0], made.target, made.s
    b = (u * segments + 1e-4).floor() / segments
    edge = (u - b).abs() < 1e-6
    assert ((s >= b - 1e-6) & (s <= u + 1e-6)).all() and edge.any()
    assert torch.equal(target[edge], x_u[edge]) and (segments == 8) == bool(edge.all())
    torch.testing.assert_close(target[~edge], jump(method.target, x_u, u, s, batch.cond)[~edge].detach())


def test_the_teachers_step_is_guided():
    met = []
    for w in (1.0, 3.0):
        method = built(segments=8, last_segments=8, levels=8, guidance=w)
        met.append(method.segment_jump(batch_of()).target)
    assert (met[0] - met[1]).abs().max() > 1e-3


def test_stages_follow_one_another_and_say_who_moves():
    method = built(total=80, **{**ALL, "segments": 4})
    names = ["4 segments", "2 segments", "1 segment", "reward feedback", "score distillation"]
    assert [stage.name for stage in method.plan] == names
    lengths = [stage.length for stage in method.plan]
    assert lengths[3:] == [20, 20] and sum(lengths) == 80 and max(lengths[:3]) - min(lengths[:3]) <= 1
    assert method.turns(0) == ["critic", "student"] and method.turns(45) == ["student"]
    assert method.turns(60) == ["student", "fake"] and method.turns(61) == ["fake"]
    seldom = built(total=80, **{**ALL, "segments": 4}, fake_per_student=3)  # counted from the run's beginning
    assert [seldom.turns(k) for k in range(60, 64)] == [
        ["student", "fake"],
        ["fake"],
        ["fake"],
        ["student", "fake"],
    ]
    assert built().turns(0) == ["student"] and set(built().players) == {"student"}
    with pytest.raises(StillhouseError, match="too few for 5 stages"):
        method.stages(3)


def test_the_critic_takes_over_as_the_segments_grow():
    shares = []
    for k in (8, 4, 2, 1):
        method = built(segments=k, last_segments=k, levels=8, critic=1.0)
        method.logits = lambda x, s, batch: torch.full((len(x),), -1.0)  # the student is told off with 1
        batch = batch_of()
        loss = method.loss("student", at(method, batch))
        batch.player = "student"
        plain = built(segments=k, last_segments=k, levels=8).loss("student", batch_of())
        shares.append(float((loss - 1) / (plain - 1)))
    assert shares == pytest.approx([0.9, 0.8, 0.5, 0.3], abs=1e-4)


def test_the_reward_stage_lifts_what_falls_short_and_nothing_else():
    method = built(**ALL)
    batch = batch_of(step=4)
    assert at(method, batch) and method.current.name == "reward feedback"
    loss = method.loss("student", at(method, batch))
    draws = Draws(ROWS, 4, "student")
    t = draws.uniform(0, 1)
    x = predict_x0(method.student, Flow().noise(batch.x, t, draws.normal(2)), t, batch.cond)
    torch.testing.assert_close(loss, (0.0 - across(x, batch.cond)).clamp_min(0).mean())
    (gradient,) = torch.autograd.grad(loss, method.student.net.output.weight)
    assert gradient.any()
    easy = built(**ALL, margin=-1e6)
    assert float(easy.loss("student", at(easy, batch_of(step=4))).detach()) == 0


def test_the_score_stage_moves_samples_along_the_difference():
    method = built(**{**ALL, "reward": "", "reward_share": 0.0}, guidance=2.0, first_time=0.7)
    batch = batch_of(step=7)
    assert at(method, batch) and method.current.name == "score distillation"
    made = []
    method.student.register_forward_hook(lambda _m, args, pred: made.append((args, pred.x0)))
    loss = method.loss("student", at(method, batch))
    (args, x) = made[0]
    x_1 = Draws(ROWS, 7, "samples").normal(2)
    assert torch.allclose(args[0], 0.7 * x_1) and (args[1] == 0.7).all()
    draws = Draws(ROWS, 7, "student")
    t, eps = draws.uniform(0.02, 0.98), draws.normal(2)
    g = dmd_gradient(x.detach(), t, eps, method.guided, method.fake, batch.cond)
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient, g / g.numel(), atol=1e-6, rtol=1e-3)


def test_pairs_hold_the_one_step_student():
    options = {**ALL, "critic": 0.0, "pairs": 16, "guidance": 2.0}
    assert (
        built(**options).bank_size == 16
        and built(**options, pair_weight=0.0).bank_size == built(**ALL).bank_size == 0
    )
    method = built(**options)
    rows = method.bank_rows(Draws(16, "bank"), torch.arange(16) % 2)
    assert rows["x"].shape == (16, 2) and set(rows) == {"eps", "x", "cond"}
    batch, again = batch_of(step=7), batch_of(step=7)
    for one, ends in ((batch, rows["x"]), (again, method.once(rows["eps"], rows["cond"]).detach())):
        one.bank = lambda draws, ends=ends: {**rows, "x": ends}
        one.loss = float(method.loss("student", at(method, one)).detach())
    assert batch.loss > again.loss + 1e-3 and again.logs["student/pairs"] == pytest.approx(0, abs=1e-10)


def test_a_unified_student_mixes_segments_and_is_sampled_with_less_noise_the_more_calls():
    method = built(segments=4, unified=True, levels=8, total=80)
    assert {method.segments_at(at(method, batch_of(step))) for step in range(60, 80)} == {1, 2, 4}
    assert {method.segments_at(at(method, batch_of(step))) for step in range(20)} == {4}
    ways = method.samplings()
    assert list(ways) == [1, 2, 4] and ways[4].times == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [way.solver["gamma"] for way in ways.values()] == [1.0, 0.5, 0.25] and Renoise(
        **{"gamma": 0.25}
    ).stochastic
    plain = built(segments=8, last_segments=2).samplings()
    assert list(plain) == [2] and plain[2].times == [1.0, 0.5, 0.0] and plain[2].solver == "ddim"
    late = {**ALL, "first_time": 0.75}  # of the one call that the score stage has trained
    assert built(**late).samplings()[1].times == [0.75, 0.0]
    assert [way.times for way in built(**late, unified=True).samplings().values()] == [[0.75, 0], [1, 0.5, 0]]
    assert built(segments=1, levels=1, first_time=0.75).samplings()[1].times == [1.0, 0.0]


@pytest.mark.parametrize("process", [Flow(), VE()])
def test_the_critic_reads_no_state_below_the_first_level(process):
    method, times = built(process, critic=1.0, segments=2, levels=4), []
    method.feature_net.register_forward_pre_hook(lambda _m, args: times.append(args[1]))
    s = torch.linspace(0, 1, ROWS)
    method.logits(torch.zeros(ROWS, 2), s, batch_of())
    assert torch.equal(times[0], s.clamp_min(process.t_min or 1e-3))


def test_the_fake_begins_as_the_teacher():
    wide = WORLD.network(Flow(), 3, width=24, depth=1)
    assert [p.shape for p in built(**ALL, teacher=wide).fake.parameters()] == [
        p.shape for p in wide.parameters()
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"segments": 8, "last_segments": 3}, "times 1, 2, 4, 8"),
        ({"segments": 2, "last_segments": 4}, "times 1, 2, 4, 8"),
        ({"segments": 6, "last_segments": 2, "levels": 6}, "times 1, 2, 4, 8"),
        ({"levels": 41}, "multiple of the 8 segments"),
        ({"reward_share": 0.2}, "needs a reward"),
        ({"score_share": 0.2, "last_segments": 2}, "for a one-step student"),
        ({"score_share": 0.5, "reward_share": 0.5, "reward": "captions"}, "leave something"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        HyperSD(**options)


@pytest.mark.parametrize("late", [{}, {**ALL, "first_time": 0.5}])  # segments begin at 1 all the same
def test_a_noise_student_is_refused_where_no_signal_is_left(late):
    with pytest.raises(StillhouseError, match="holds no clean image"):
        built(process=Cosine(), kind="eps", **{"segments": 2, **late})


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
    method = HyperSD(**{**ALL, "reward": f"{brightness.__module__}:brightness", "pairs": 2, "guidance": 3.0})
    teacher = load(family.denoiser(), shape=family.shape)
    trainer = Trainer(
        method, teacher, TensorData(x, cond), Recipe(steps=8, batch=2, seed=0, lora=lora), quiet=True
    )
    student = trainer.fit()
    assert torch.isfinite(student.sample(2, cond, seed=1)).all()
    assert set(method.players) == {"student", "critic", "fake"} and isinstance(method.fake, Adapted) == bool(
        lora
    )


def brightness(x0, cond):
    return x0.flatten(1).mean(1)
