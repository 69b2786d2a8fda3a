"""Streams: a chunk is one ordinary walk, the cache is the only memory, and what can't be streamed is
refused."""

import pytest
import torch

from stillhouse.core.denoiser import Denoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Leg, Sampling, Stream
from stillhouse.samplers.streaming import Cached, Clamped, of_frames, stream

ROWS, CHUNK, FRAME = 3, 2, (3, 8, 8)
LEVELS = [1.0, 0.6]


def student(chunk=CHUNK, **options):
    fields = {
        "name": "video_dit",
        "channels": 3,
        "patch": 4,
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "chunk": chunk,
        **options,
    }
    net, g = build_model(fields), torch.Generator().manual_seed(1)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.2, generator=g)
    return Denoiser(net.eval(), Flow())


def sampling(guidance=1.0, **options):
    return Sampling([*LEVELS, 0.0], "renoise", guidance, stream=Stream(CHUNK, **options))


def on(**leg):
    return Sampling(legs=[Leg([1.0, 0.0], "renoise", **leg)], stream=Stream(CHUNK))


def draws(seed=0):
    return Draws(ROWS, seed, "stream")


def clip(frames, seed=5):
    return torch.randn(ROWS, frames, *FRAME, generator=torch.Generator().manual_seed(seed))


def all_of(model, **options):
    how = options.pop("how", sampling())
    return torch.cat(
        list(stream(model, how, FRAME, options.pop("cond", None), options.pop("draws", draws()), **options)),
        1,
    )


def test_a_stream_is_the_uncached_masked_walk():
    model, numbers = student(), draws()
    made = all_of(model, frames=8)
    x = torch.zeros(ROWS, 0, *FRAME)
    with torch.no_grad():  # by hand: the whole past as clean frames before the chunk, at every call
        for first in range(0, 8, CHUNK):
            new = numbers.normal(CHUNK, *FRAME)
            for level, below in zip(LEVELS, [*LEVELS[1:], 0.0], strict=True):
                t = torch.cat([torch.zeros(ROWS, first), torch.full((ROWS, CHUNK), level)], 1)
                new = model(torch.cat([x, new], 1), t).x0[:, first:]
                if below:
                    new = (1 - below) * new + below * numbers.normal(CHUNK, *FRAME)
            x = torch.cat([x, new], 1)
    torch.testing.assert_close(made, x, atol=1e-5, rtol=0)


def test_a_sample_of_a_streaming_student_is_its_chunks():
    model, how = student(), sampling()
    with count_calls(model) as calls:
        x = draw_samples(model, how, (7, *FRAME), None, draws())
    assert x.shape == (ROWS, 7, *FRAME) and calls() == 4 * how.nfe(model) == 4 * (len(LEVELS) + 1)
    assert torch.equal(x, all_of(model, frames=8)[:, :7])
    noise = clip(8)
    fixed = [
        draw_samples(
            model,
            Sampling([1.0, 0.0], "renoise", stream=Stream(CHUNK)),
            (8, *FRAME),
            None,
            draws(s),
            start=noise,
        )
        for s in (0, 1)
    ]
    assert torch.equal(*fixed)


def test_chunks_come_before_their_clean_pass_and_gradients_stay_as_they_were():
    model, chunks = student(), None
    with count_calls(model) as calls:
        chunks = stream(model, sampling(), FRAME, None, draws())
        first = next(chunks)
        assert first.shape == (ROWS, CHUNK, *FRAME) and calls() == len(LEVELS)
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        next(chunks)
        assert calls() == 2 * len(LEVELS) + 1


def test_memory_does_not_grow_where_there_is_a_window():
    cached, sizes = Cached(student(), window=4, sink=2), []
    for _ in range(20):
        cached.keep(clip(CHUNK))
        sizes.append(sum(part.numel() for layer in cached.cache.layers for part in layer))
    assert sizes[0] < sizes[1] == sizes[-1] and cached.cache.frames == 4
    infinite = stream(student(), sampling(window=4, sink=2), FRAME, None, draws())
    assert all(next(infinite).isfinite().all() for _ in range(20))


def test_given_frames_fill_the_cache_and_the_rest_is_clamped():
    model, given = student(), clip(5)
    made = all_of(model, frames=6, given=given, draws=draws(1))
    assert made.shape[1] == 6
    again = all_of(model, frames=6, given=given, draws=draws(1))
    other = all_of(model, frames=6, given=torch.cat([given[:, :4], given[:, 4:] + 1], 1), draws=draws(1))
    assert torch.equal(made, again) and (made - other).abs().amax() > 1e-3
    # whole chunks of given frames are the frames of a stream that was cut and goes on
    numbers = draws(2)
    whole = all_of(model, frames=8, draws=numbers)
    numbers = draws(2)
    for _ in range(2 * len(LEVELS)):
        numbers.normal(CHUNK, *FRAME)
    torch.testing.assert_close(
        all_of(model, frames=4, given=whole[:, :4], draws=numbers), whole[:, 4:], atol=1e-5, rtol=0
    )


def test_clamped_frames_are_told_to_be_clean_and_stay_what_they_are():
    model, known, seen = student(chunk=0), clip(1), []
    model.register_forward_pre_hook(lambda _m, args: seen.append((args[0][:, :1], args[1])))
    pred = Clamped(model, known)(clip(4), torch.tensor([0.3, 0.6, 0.9]))
    assert torch.equal(pred.x0[:, :1], known) and torch.equal(seen[0][0], known)
    torch.testing.assert_close(
        seen[0][1], torch.tensor([[0, 0.3, 0.3, 0.3], [0, 0.6, 0.6, 0.6], [0, 0.9, 0.9, 0.9]])
    )


def test_the_condition_may_change_between_chunks_and_is_cut_to_the_frames():
    model = student(classes=3)
    label = torch.tensor([0, 1, 2])
    steady = all_of(model, frames=6, cond=label)
    changed = all_of(model, frames=6, cond=lambda number: label if number < 2 else (label + 1) % 3)
    gap = (steady - changed).abs().amax((0, 2, 3, 4))
    assert gap[:4].max() == 0 and gap[4:].min() > 1e-3
    told = {"features": torch.arange(12.0).reshape(1, 6, 2), "label": label}
    assert (
        of_frames(told, 2, 3)["features"].flatten().tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
        and of_frames(label, 0, 2) is label
    )
    with pytest.raises(StillhouseError, match="holds 6 frames, but frame 8 is wanted"):
        of_frames(told, 6, 2)


def test_features_may_end_where_the_frames_do_within_a_chunk():
    model, features = student(features=2), torch.randn(ROWS, 5, 2, generator=torch.Generator().manual_seed(2))
    made = all_of(model, frames=5, cond={"features": features})
    longer = torch.cat([features, features[:, -1:]], 1)  # the last one goes on to the end of the chunk
    assert made.shape[1] == 5 and torch.equal(made, all_of(model, frames=5, cond={"features": longer}))
    after = all_of(model, frames=3, given=clip(2), cond={"features": features})
    assert after.shape[1] == 3
    with pytest.raises(StillhouseError, match="holds 5 frames, but frame 6 is wanted"):
        all_of(model, frames=6, cond={"features": features})


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: sampling(window=3, sink=2), "window of 3 frames can't hold a sink of 2 and a chunk of 2"),
        (lambda: sampling(sink=-1), "0 frames or more"),
        (lambda: all_of(student(chunk=0), frames=4), "needs a causal network"),
        (lambda: all_of(student(chunk=3), frames=4), "makes 3 frames at a time, not 2"),
        (
            lambda: all_of(student(frames=6), frames=4, how=sampling(window=6)),
            "reach beyond the 6 frames .* window of at most 4",
        ),
        (lambda: all_of(student(), frames=4, how=sampling(guidance=2.0)), "without guidance"),
        (lambda: all_of(student(), frames=4, given=clip(2)[..., :4]), "given frames must be"),
        (lambda: all_of(student(), frames=4, given=clip(0)), "at least one"),
        (lambda: draw_samples(student(), sampling(), (0, *FRAME), None, draws()), "at least one frame"),
        (lambda: all_of(student(), frames=-1), "0 for no end, not -1"),
        (lambda: all_of(student(), frames=4, how=on(blocks=1)), "all blocks of the model's own network"),
        (lambda: all_of(student(), frames=4, how=on(network="other")), "its sampling names others"),
        (lambda: all_of(student(), frames=4, how=on(hooks=[{"name": "clip"}])), "without saved hooks"),
    ],
)
def test_what_it_refuses_in_one_sentence(made, sentence):
    with pytest.raises(StillhouseError, match=sentence) as caught:
        made()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_streaming_sampling_is_plain_data():
    how = sampling(window=6, sink=2)
    assert Sampling.from_config(how.config()) == how and how.nfe(student()) == 3
    with pytest.raises(StillhouseError, match="A sampling holds"):
        Sampling.from_config({**how.config(), "blocks": 2})
