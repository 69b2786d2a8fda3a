import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.opening import load
from stillhouse.parts.video.clips import (
    chunk_levels,
    clip_matching,
    level_times,
    ode_loss,
    score_times,
    self_rollout,
    trajectories,
)
from stillhouse.samplers.streaming import stream
from stillhouse.systems.video.causvid import CausVid
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

ROWS, FRAMES, CHUNK, LEVELS = 6, 6, 2, (1.0, 0.6)
WORLD = get_world("clips", kind="ring", frames=FRAMES)


def network(seed=0, **options) -> Denoiser:
    made = WORLD.network(Flow(), seed, dim=16, depth=2, heads=2, classes=0, **options)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():  # layers that start at zero hide gradients
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return made


def built(lora=0, teacher=None, student=None, **options) -> CausVid:
    method = CausVid(**{"paths": 16, "teacher_steps": 4, **options})
    Trainer(
        method,
        load(teacher or network(), shape=WORLD.shape),
        InfiniteData(WORLD),
        Recipe(steps=8, batch=ROWS, lora=lora),
        student=student,
        quiet=True,
    )
    method.stage = 1  # distribution matching
    return method


def batch_of(step=7, turns=("student", "fake"), x=None) -> Batch:
    data = WORLD.sample_data(ROWS, Draws(ROWS, "rows"))[0] if x is None else x
    return Batch(step, ROWS, WORLD.shape, data, None, turns, lambda name: Draws(ROWS, step, name))


def test_stored_states_lie_on_the_teachers_euler_path():
    teacher = WORLD.exact(Flow())
    path = trajectories(teacher, WORLD.shape, Draws(ROWS, 1), None, LEVELS, steps=4, shift=2.0)["path"]
    assert path.shape == (ROWS, len(LEVELS) + 1, *WORLD.shape)
    x = Draws(ROWS, 1).normal(*WORLD.shape)
    torch.testing.assert_close(path[:, 0], x)
    grid = sorted([2 * t / (1 + t) for t in (1.0, 0.75, 0.5, 0.25, 0.0)] + [0.6], reverse=True)
    for t, s in zip(grid, grid[1:], strict=False):
        x = x - (t - s) * teacher(x, torch.full((ROWS,), t)).velocity
        if s == 0.6:
            torch.testing.assert_close(path[:, 1], x, atol=1e-5, rtol=0)
    torch.testing.assert_close(path[:, -1], x, atol=1e-5, rtol=0)


def test_each_chunk_draws_a_level_of_its_own():
    index = chunk_levels(Draws(4000, 0), 3, CHUNK, 5)
    assert index.shape == (4000, 5) and torch.equal(index[:, 0::2][:, :2], index[:, 1::2])
    shares = torch.bincount(index[:, 0], minlength=3) / 4000
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    assert float((index[:, 0] == index[:, 2]).double().mean()) == pytest.approx(1 / 3, abs=0.03)
    assert level_times(Flow(), LEVELS, torch.tensor([[0, 1, 2]])).tolist() == [[1.0, pytest.approx(0.6), 0.0]]


def test_initialisation_is_a_mean_over_frames_in_which_clean_chunks_are_nothing():
    student = built().student
    path = trajectories(WORLD.exact(Flow()), WORLD.shape, Draws(ROWS, 1), None, LEVELS, steps=4)["path"]
    index = torch.tensor([[0, 0, 2, 2, 1, 1]]).expand(ROWS, FRAMES)
    x = torch.cat([path[:, 0, :2], path[:, 2, 2:4], path[:, 1, 4:]], 1)
    t = torch.tensor([[1, 1, 0, 0, 0.6, 0.6]]).expand(ROWS, FRAMES)
    gap = (student(x, t).x0 - path[:, -1]).square()
    torch.testing.assert_close(ode_loss(student, path, index, LEVELS, None), gap.mean())
    assert gap[:, 2:4].max() < 1e-10 and gap[:, :2].mean() > 1e-2
    clean = ode_loss(student, path, torch.full((ROWS, FRAMES), 2), LEVELS, None)
    clean.backward()
    assert float(clean.detach()) == 0 and not any(
        p.grad.any() for p in student.parameters() if p.grad is not None
    )


def test_noise_does_not_leak_to_earlier_chunks():
    method = built()
    x, t = (
        torch.randn(ROWS, *WORLD.shape, generator=torch.Generator().manual_seed(0)),
        torch.full((ROWS, FRAMES), 0.6),
    )
    other = torch.cat([x[:, :4], x[:, 4:] + 1], 1)
    gap = (method.student(x, t).x0 - method.student(other, t).x0).abs().amax((0, 2, 3, 4))
    assert gap[:4].max() == 0 and gap[4:].min() > 1e-3
    gap = (method.fake(x, t[:, 0]).x0 - method.fake(other, t[:, 0]).x0).abs().amax((0, 2, 3, 4))
    assert gap.min() > 1e-4


def test_student_and_fake_start_from_the_teachers_weights():
    method = built()
    teacher, nets = method.teacher.net.state_dict(), (method.student.net, method.fake.net)
    assert all(torch.equal(v, net.state_dict()[k]) for net in nets for k, v in teacher.items())
    assert [net.chunk for net in (method.teacher.net, *nets)] == [0, CHUNK, 0]


@pytest.mark.parametrize("exact", [False, True])
def test_beside_another_student_the_fake_is_the_teachers_copy_unless_that_is_a_closed_form(exact):
    method = built(teacher=WORLD.exact(Flow()) if exact else network(), student=network(seed=5))
    source = (method.student if exact else method.teacher).net.state_dict()
    assert all(torch.equal(v, method.fake.net.state_dict()[k]) for k, v in source.items())
    assert not torch.equal(method.student.net.input.weight, network().net.input.weight)


def test_both_scores_see_the_whole_clip_at_one_time():
    method, seen = built(), []
    with torch.no_grad():
        method.fake.net.output.weight += 0.1  # where both scores agree there is nothing to learn
    for score in (method.teacher, method.fake):
        score.register_forward_pre_hook(lambda _m, args: seen.append((args[0], args[1])))
    batch = batch_of()
    method.loss("student", batch).backward()
    (x, t), (y, s) = seen
    assert t.shape == (ROWS,) and x.shape == (ROWS, *WORLD.shape) and torch.equal(t, s) and torch.equal(x, y)
    assert any(p.grad.any() for p in method.student.parameters() if p.grad is not None)
    batch.player = "fake"
    seen.clear()
    method.fake_loss(batch)
    assert seen[0][1].shape == (ROWS,) and not torch.equal(seen[0][1], t)


def test_score_times_are_shifted_and_kept_inside():
    t = score_times(Flow(), Draws(20_000, 0), 8.0)
    assert float(t.min()) == pytest.approx(0.02) and float(t.max()) == pytest.approx(0.98)
    assert float((t < 8 * 0.5 / (1 + 7 * 0.5)).double().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(score_times(Flow(), Draws(20_000, 0), 1.0).mean()) == pytest.approx(0.5, abs=0.01)


def test_the_matching_gradient_is_the_normalised_difference_of_two_scores():
    real, fake = WORLD.exact(Flow()), network()
    x = torch.randn(ROWS, *WORLD.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    learns = torch.tensor([True, True, False, False, True, True]).expand(ROWS, FRAMES)
    (g,) = torch.autograd.grad(clip_matching(x, real, fake, None, Draws(ROWS, 3), 1.0, learns), x)
    draws = Draws(ROWS, 3)
    t, eps = score_times(Flow(), draws, 1.0), draws.normal(*WORLD.shape)
    with torch.no_grad():
        x_t = Flow().noise(x, t, eps)
        d_real, d_fake = real(x_t, t).x0, fake(x_t, t).x0
        wanted = (
            (d_fake - d_real) / (x - d_real).abs().flatten(1).mean(1)[:, None, None, None, None] / x.numel()
        )
    torch.testing.assert_close(g[:, [0, 1, 4, 5]], wanted[:, [0, 1, 4, 5]], atol=1e-7, rtol=1e-4)
    assert not g[:, 2:4].any()


def test_a_clip_that_stays_real_moves_nothing():
    x = WORLD.data()[0][:ROWS].requires_grad_()  # the exact teacher agrees with it: the normaliser is 0
    loss = clip_matching(
        x,
        WORLD.exact(Flow()),
        network(),
        None,
        Draws(ROWS, 0),
        1.0,
        torch.zeros(ROWS, FRAMES, dtype=torch.bool),
    )
    loss.backward()
    assert float(loss.detach()) == 0 and not x.grad.any()


def test_a_self_rollout_meets_what_a_stream_meets_and_each_chunk_has_its_own_graph():
    method, traced = built(), []
    student = method.student
    student.register_forward_hook(
        lambda _m, args, pred: traced.append((args[0].detach().clone(), pred.raw.requires_grad))
    )
    x = self_rollout(student, LEVELS, Draws(ROWS, 4), None, WORLD.shape, window=4)
    trained, graphs = [state for state, _ in traced], [graph for _, graph in traced]
    assert graphs == [
        False,
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]  # noisy, last, clean; no clean pass after the last chunk
    traced.clear()
    sampled = torch.cat(
        list(stream(student, method.samplings()[2], WORLD.shape[1:], None, Draws(ROWS, 4), frames=FRAMES)), 1
    )
    torch.testing.assert_close(x.detach(), sampled, atol=1e-6, rtol=0)
    for mine, (its, _) in zip(trained, traced, strict=False):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=0)
    early = self_rollout(student, LEVELS[:1], Draws(ROWS, 4), None, WORLD.shape)
    assert early.requires_grad and not torch.allclose(early[:, :2], x[:, :2], atol=1e-2)


def test_whose_turn_it_is():
    method = CausVid(ode_share=0.5, warmup=2, fake_per_student=3)
    method.plan = method.stages(14)
    turns = [method.turns(step) for step in range(14)]
    assert turns[:7] == [["student"]] * 7 and turns[7:10] == [["fake"]] * 3
    assert (
        turns[10] == ["student", "fake"]
        and turns[11:13] == [["fake"]] * 2
        and turns[13] == ["student", "fake"]
    )
    assert [stage.length for stage in method.plan] == [7, 7] and CausVid(ode_share=0.0).bank_size == 0


def test_a_saved_student_streams_as_it_did(tmp_path):
    method = CausVid(paths=16, teacher_steps=4, ode_share=0.5)
    trainer = Trainer(
        method,
        load(network(), shape=WORLD.shape),
        InfiniteData(WORLD),
        Recipe(steps=2, batch=ROWS),
        quiet=True,
    )
    student = trainer.fit()
    student.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (
        again.denoiser.net.chunk == CHUNK
        and again.sampling().stream.window == FRAMES - CHUNK
        and again.form == "video"
    )
    assert torch.equal(again.sample(3, seed=1, frames=9), student.sample(3, seed=1, frames=9))


@pytest.mark.parametrize("levels", [(), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0), (1.0, "half")])
def test_levels_fall_from_one(levels):
    with pytest.raises(StillhouseError, match="'levels' are times that fall from 1"):
        CausVid(levels=levels)


def test_what_it_refuses():
    with pytest.raises(StillhouseError, match="leave out --lora"):
        built(lora=2)
    mixture = get_world("mixture")
    with pytest.raises(StillhouseError, match="CausVid is for models of the form video"):
        Trainer(
            CausVid(),
            load(mixture.network(Flow()), shape=(2,)),
            InfiniteData(mixture),
            Recipe(steps=2, batch=4),
            quiet=True,
        )
