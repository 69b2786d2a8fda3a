import dataclasses

import pytest
import torch

from stillhouse.core.denoiser import count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import At
from stillhouse.core.schedules import Cosine, Flow
from stillhouse.models.video import video_network
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.streaming import stream
from stillhouse.systems.video.livetalk import LiveTalk, velocity_weight
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData, NoData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.clips.ring import RingClips
from stillhouse.worlds.clips.talking import TalkingClips

ROWS, FRAMES = 3, 6


def built(world=None, **options) -> LiveTalk:
    world = world or RingClips(frames=FRAMES)
    method = LiveTalk(**{"levels": (1.0, 0.7, 0.4), "paths": 8, "teacher_steps": 4, **options})
    student = world.network(
        Flow(), 0, dim=16, depth=1, heads=2, **({} if world.cond_kind else {"classes": 0})
    )
    teacher = load(world.exact(Flow()), shape=world.shape)
    data = InfiniteData(world) if method.reference else NoData(world.shape)
    Trainer(method, teacher, data, Recipe(batch=ROWS), student=student, quiet=True)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():  # layers that start at zero hide gradients
        for module in method.players.values():
            for p in module.parameters():
                p += 0.1 * torch.randn(p.shape, generator=g)
    method.stage = 1  # its own streams
    return method


def batch_of(method, step=10_000, turns=("student", "fake"), cond=None, exit=0) -> Batch:
    x = RingClips(frames=FRAMES).sample_data(ROWS, Draws(ROWS, 3))[0] if method.reference else None
    streams = lambda name: Draws(ROWS, exit if name == "exit" else 0, name)  # noqa: E731
    batch = Batch(step, ROWS, method.shape, x, cond, turns, streams)
    batch.player = "student"
    return batch


def test_one_exit_for_all_chunks_and_one_clean_pass_between_them():
    method, asked, exits = built(), [], set()
    method.student.register_forward_pre_hook(
        lambda _m, args: asked.append(round(float(args[1].flatten()[0]), 3))
    )
    for exit in range(12):
        asked.clear()
        method.samples(batch_of(method, exit=exit))
        calls = next(
            k for k in (1, 2, 3) if len(asked) == 3 * k + 2
        )  # three chunks of k calls, clean passes after all but the last
        assert asked == ([1.0, 0.7, 0.4][:calls] + [0.0]) * 2 + [1.0, 0.7, 0.4][:calls]
        assert calls == Draws(ROWS, exit, "exit").one_integer(1, 4)  # all of them equally often
        exits.add(calls)
    assert exits == {1, 2, 3}


def test_gradient_flows_through_the_last_call_of_each_chunk_alone():
    method, traced = built(), []
    method.student.register_forward_hook(lambda _m, _i, pred: traced.append(pred.raw.requires_grad))
    for exit in range(6):
        traced.clear()
        x = method.samples(batch_of(method, exit=exit))
        calls = (len(traced) - 2) // 3
        chunk = [False] * (calls - 1) + [True]
        assert traced == (chunk + [False]) * 2 + chunk and x.requires_grad


def test_no_gradient_crosses_chunks():
    method, inputs = built(levels=(1.0,)), []

    def free(_module, args):
        inputs.append(args[0].requires_grad_() if args[0].is_leaf else args[0])

    method.student.register_forward_pre_hook(free)
    whole = method.samples(batch_of(method))
    chunks = inputs[::2]  # between them lie the clean passes
    for i, chunk in enumerate(chunks):
        reached = torch.autograd.grad(whole.sum(), chunk, retain_graph=True)[0]
        alone = torch.autograd.grad(whole[:, 2 * i : 2 * i + 2].sum(), chunk, retain_graph=True)[0]
        assert reached.any() and torch.equal(reached, alone)


def test_training_meets_the_states_that_the_stream_meets():
    method, met = built(), []
    method.student.register_forward_pre_hook(
        lambda _m, args: met.append((args[0].detach().clone(), args[1].clone()))
    )
    sampling = method.samplings()[3]
    draw_samples(method.student, sampling, method.shape, None, Draws(ROWS, 0, "samples"))
    streamed = list(met)
    met.clear()
    deepest = next(e for e in range(20) if Draws(ROWS, e, "exit").one_integer(1, 4) == 3)
    method.samples(batch_of(method, exit=deepest))
    assert len(met) == 11
    for (mine, t), (its, s) in zip(met, streamed, strict=False):
        torch.testing.assert_close(mine, its)
        assert torch.equal(t, s)


def test_the_student_is_causal_and_the_fake_sees_the_clip():
    method = built()
    assert (video_network(method.student, "").chunk, video_network(method.fake, "").chunk) == (2, 0)
    x, t = torch.randn(1, *method.shape, generator=torch.Generator().manual_seed(0)), torch.full((1,), 0.5)
    later = x.clone()
    later[:, 4:] += 1
    first = lambda denoiser, x: denoiser(x, t).x0[:, :4].detach()  # noqa: E731
    assert torch.equal(first(method.student, x), first(method.student, later))
    assert float((first(method.fake, x) - first(method.fake, later)).abs().max()) > 1e-3


def test_the_fake_is_the_copy_of_a_teacher_that_is_a_network():
    world = RingClips(frames=FRAMES)
    teacher, student = (world.network(Flow(), seed, dim=16, depth=1, heads=2, classes=0) for seed in (3, 4))
    method = LiveTalk(paths=8, teacher_steps=4)
    model = load(teacher, shape=world.shape)
    Trainer(method, model, NoData(world.shape), Recipe(batch=ROWS), student=student, quiet=True)
    weights = method.fake.net.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in method.teacher.net.state_dict().items())
    assert not torch.equal(weights["input.weight"], method.student.net.input.weight)


def gradient_of(method, player, **batch):
    for module in method.players.values():
        module.requires_grad_(True)
        module.zero_grad()
    method.loss(player, batch_of(method, **batch)).backward()
    return {
        k: sum(float(p.grad.abs().sum()) for p in m.parameters() if p.grad is not None)
        for k, m in method.players.items()
    }


def test_who_gets_gradient():
    method = built()
    student, fake = gradient_of(method, "student"), gradient_of(method, "fake")
    assert student["student"] > 0 == student["fake"] and fake["fake"] > 0 == fake["student"]


def test_a_run_is_a_start_and_then_its_own_streams():
    method = LiveTalk(ode_share=0.75, warmup=4, fake_per_student=3)
    method.plan = method.stages(40)
    assert [stage.length for stage in method.plan] == [30, 10] and method.turns(29) == ["student"]
    assert [len(method.turns(step)) for step in range(30, 40)] == [1, 1, 1, 1, 1, 1, 2, 1, 1, 2]
    assert LiveTalk(ode_share=0.0).bank_size == 0 < LiveTalk().bank_size


def test_the_published_ratio_moves_both_from_the_first_iteration_of_the_second_stage():
    method = LiveTalk(**LiveTalk.published["pipeline"].options, ode_share=0.5)
    method.plan = method.stages(20)
    moves = [len(method.turns(step)) for step in range(10, 20)]
    assert moves == [2 if step % 5 == 0 else 1 for step in range(10, 20)]


def test_how_long_streams_may_be():
    for chunk, longest, lengths in ((2, 11, {6, 8, 10}), (2, 0, {6}), (1, 0, {6}), (1, 7, {6, 7})):
        method = built(chunk=chunk, longest=longest)
        streams = [lambda name, seed=seed: Draws(ROWS, seed, name) for seed in range(25)]
        batches = [Batch(9, ROWS, method.shape, None, None, ("student",), stream) for stream in streams]
        assert {method.length(batch) for batch in batches} == lengths


def test_only_feature_vectors_of_frames_are_repeated_over_a_longer_stream():
    method, batch = longer(None)
    for cond in (torch.arange(ROWS), {"tokens": torch.ones(ROWS, 2, 4)}, {"features": torch.ones(ROWS, 2)}):
        batch.cond = cond
        assert method.stream_condition(batch) is cond
    batch.cond = {"features": torch.arange(6.0).reshape(1, 6, 1).expand(ROWS, -1, -1)}
    again = method.stream_condition(batch)["features"]
    assert again[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]


# -- the given first frame -------------------------------------------------------------------------
def test_a_given_frame_stays_as_it_is_and_is_excluded_from_what_the_fake_learns():
    method = built(reference=True)
    assert method.requires("data") and not LiveTalk().requires("data")
    batch, seen = batch_of(method), []
    x = method.samples(batch)
    assert torch.equal(x[:, :1], batch.data[:, :1]) and not torch.equal(x[:, 1:2], batch.data[:, 1:2])
    method.fake.register_forward_pre_hook(lambda _m, args: seen.append((args[0], args[1])))

    def watch(_module, _inputs, pred):
        pred.raw.register_hook(lambda grad: seen.append(grad))

    method.fake.register_forward_hook(watch)
    method.fake.requires_grad_(True)
    method.loss("fake", batch).backward()
    (state, times), gradient = seen
    assert torch.equal(state[:, :1], batch.data[:, :1]) and not times[:, 0].any() and (times[:, 1:] > 0).all()
    assert not gradient[:, 0].any() and gradient[:, 1:].flatten(2).any(2).all()


def test_a_given_frame_is_not_pulled_by_the_scores():
    method = built(reference=True)
    batch, clamped = batch_of(method), []
    for player in (method.teacher, method.fake):
        player.register_forward_pre_hook(
            lambda _m, args: clamped.append((args[0][:, :1].clone(), args[1][:, 0].clone()))
        )
    loss = method.loss("student", batch)
    assert torch.isfinite(loss) and len(clamped) == 2
    for frame, time in clamped:
        assert torch.equal(frame, batch.data[:, :1]) and not time.any()


def test_a_stream_goes_on_from_a_given_frame():
    method = built(reference=True)
    first = RingClips(frames=FRAMES).sample_data(ROWS, Draws(ROWS, 3))[0][:, :1]
    chunks = list(
        stream(method.student, method.samplings()[3], (16, 1, 1), None, Draws(ROWS, 0), frames=5, given=first)
    )
    assert [c.shape[1] for c in chunks] == [1, 2, 2]


def test_the_velocity_weight_by_hand():
    t = torch.tensor([[0.0, 0.5, 0.25]])
    weight = velocity_weight(At(Flow(), t, torch.zeros(1, 3, 1)))
    assert weight.flatten().tolist() == pytest.approx([0.0, 4.0, 16.0])
    # on any process it makes of |D - x|^2 the error of alpha' D + sigma' eps, where x_t = alpha D + sigma eps
    process, t = Cosine(), torch.tensor([[0.3, 0.8]], dtype=torch.float64)
    error = process.dalpha(t) - process.dsigma(t) * process.alpha(t) / process.sigma(t)
    weight = velocity_weight(At(process, t, torch.zeros(1, 2, 1)))
    torch.testing.assert_close(weight[..., 0], error.square(), check_dtype=False, rtol=1e-5, atol=0)


# -- streams longer than a clip --------------------------------------------------------------------
class Halving:
    """A codec of clips as those that compress time: its first latent frame is a picture, halved; any later
    one holds two pictures, and is a quarter of their sum."""

    def __init__(self):
        self.decoded, self.encoded = [], []

    def decode(self, latents):
        self.decoded.append(latents)
        return torch.cat([2 * latents[:, :1], 2 * latents[:, 1:].repeat_interleave(2, 1)], 1)

    def encode(self, clips):
        self.encoded.append(clips)
        assert clips.shape[1] == 1  # a picture, and no clip
        return clips / 2 + 100  # to be seen again


def longer(codec) -> tuple[LiveTalk, Batch]:
    """A method, and a batch whose streams are longer than a clip by 4 frames."""
    method = built(longest=FRAMES + 4)
    method.codec = codec
    seed = next(s for s in range(50) if Draws(ROWS, s, "length").one_integer(0, 3) == 2)
    batch = Batch(
        9, ROWS, method.shape, None, None, ("student", "fake"), lambda name: Draws(ROWS, seed, name)
    )
    batch.player = "student"
    return method, batch


def test_the_last_clip_of_a_longer_stream_begins_with_a_picture():
    codec = Halving()
    method, batch = longer(codec)
    x = method.samples(batch)
    plain, again = longer(None)
    stream_end = plain.samples(again)
    assert x.shape == stream_end.shape == (ROWS, *method.shape)
    # decoded: the 4 frames before the clip and its first one; its last picture is encoded alone
    assert codec.decoded[0].shape[1] == 5 and torch.equal(codec.encoded[0], 2 * stream_end[:, :1])
    assert torch.allclose(x[:, :1], stream_end[:, :1] + 100) and torch.equal(x[:, 1:], stream_end[:, 1:])


@pytest.mark.parametrize(("codec", "still"), [(Halving(), 2), (None, 0)])
def test_its_first_chunk_is_out_of_the_loss_and_still_seen_by_both_scores(codec, still):
    method, batch = longer(codec)
    x, seen = method.samples(batch).detach().requires_grad_(), []
    batch.memo["shared/samples"] = x  # what the student made, as a leaf
    for player in (method.teacher, method.fake):
        player.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    loss = method.loss("student", batch)
    (gradient,) = torch.autograd.grad(loss, x)
    moved = gradient.flatten(2).any(2).all(0)
    assert moved.tolist() == [False] * still + [True] * (FRAMES - still) and seen == [FRAMES, FRAMES]


def test_chunks_before_the_last_clip_carry_no_gradient():
    method, traced = longer(Halving())[0], []
    method.student.register_forward_hook(lambda _m, _i, pred: traced.append(pred.raw.requires_grad))
    method.levels = (1.0,)
    x = method.samples(longer(None)[1])
    assert traced[::2] == [False] * 3 + [True] * 2 and x.requires_grad  # between them lie the clean passes


def test_the_run_gives_a_method_the_codec_of_its_teacher():
    world, codec = RingClips(frames=FRAMES), Halving()
    teacher = dataclasses.replace(load(world.exact(Flow()), shape=world.shape), codec=codec)
    method = LiveTalk(paths=8, teacher_steps=4)
    student = world.network(Flow(), 0, dim=16, depth=1, heads=2, classes=0)
    Trainer(method, teacher, NoData(world.shape), Recipe(batch=ROWS), student=student, quiet=True)
    assert method.codec is codec


# -- what is heard ---------------------------------------------------------------------------------
def test_the_teacher_is_guided_by_text_and_sound_apart():
    world = TalkingClips()
    method = built(world, guidance=4.0, sound_guidance=2.0)
    batch = batch_of(method, cond=world.condition(world.balanced_labels(ROWS)))
    with count_calls(method.teacher) as calls:
        assert torch.isfinite(method.loss("student", batch))
    assert calls() == 3
    method = built(world, guidance=4.0, sound_guidance=4.0)
    with count_calls(method.teacher) as calls:
        method.loss("student", batch_of(method, cond=world.condition(world.balanced_labels(ROWS))))
    assert calls() == 2


def test_each_chunk_hears_its_own_frames():
    world = TalkingClips()
    method, heard = built(world), []
    method.student.register_forward_pre_hook(lambda _m, args: heard.append(args[2]["features"]))
    cond = world.condition(world.balanced_labels(ROWS))
    method.samples(batch_of(method, cond=cond))
    assert all(features.shape == (ROWS, 2, 2) for features in heard)
    assert torch.equal(heard[0], cond["features"][:, :2]) and torch.equal(heard[-1], cond["features"][:, 8:])


@pytest.mark.parametrize(
    "options,sentence",
    [
        ({"levels": (0.9, 0.5)}, "fall from 1"),
        ({"levels": (1.0, 1.0)}, "fall from 1"),
        ({"chunk": 0}, "chunk"),
        ({"reference": True, "chunk": 1}, "chunk of 2 frames"),
    ],
)
def test_it_refuses_what_can_not_be(options, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        LiveTalk(**options)


def test_a_given_frame_leaves_one_to_make():
    assert LiveTalk(reference=True, chunk=2).reference and LiveTalk(chunk=1).chunk == 1


def test_a_sink_must_leave_room():
    assert built(sink=2).samplings()[3].stream.sink == 2
    with pytest.raises(StillhouseError, match="sink"):
        built(sink=3)
