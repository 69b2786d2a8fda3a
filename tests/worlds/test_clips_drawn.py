import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.worlds.base import get_world
from stillhouse.worlds.clips.drawn import (
    CAPTIONS,
    COLOURS,
    HEADINGS,
    KINDS,
    SIDE,
    DrawnClips,
    parts,
    render,
    seen,
)


@pytest.fixture(scope="module")
def world():
    return get_world("clips")


def drawn(world, n=48, frames=12, seed=0, labels=None):
    return world.stream_data(n, frames, Draws(n, seed), labels)


def test_captions_say_what_their_numbers_mean():
    ids = torch.arange(len(CAPTIONS))
    pred = [
        f"a {COLOURS[c]} {KINDS[k]} moving {list(HEADINGS)[h]}"
        for k, c, h in zip(*(p.tolist() for p in parts(ids)), strict=True)
    ]
    assert tuple(pred) == CAPTIONS and len(set(CAPTIONS)) == 48


def test_held_out_captions_are_never_drawn_and_their_words_are(world):
    hidden = world.caption_ids("test")
    _, labels = world.data("train")
    assert len(hidden) == 6 and not torch.isin(labels, hidden).any()
    words = {word for i in world.caption_ids("train") for word in CAPTIONS[i].split()}
    assert {word for i in hidden for word in CAPTIONS[i].split()} <= words
    _, others = world.data("test")
    assert torch.isin(others, hidden).all()


def test_a_clip_wraps_around_and_returns():
    clip = render(torch.tensor([1]), torch.tensor([[15.5, 8.0]]), frames=SIDE + 1)
    torch.testing.assert_close(clip[:, 0], clip[:, SIDE])
    torch.testing.assert_close(
        clip[:, 3], clip[:, 0].roll(3, -1)
    )  # a red circle moving right, a pixel a frame


def test_what_is_drawn_is_read_as_it_was_told(world):
    found = world.measure(*drawn(world))
    assert {k: v for k, v in found.items() if k.endswith("fidelity")} == {
        "fidelity": 1.0,
        "motion_fidelity": 1.0,
        "colour_fidelity": 1.0,
        "shape_fidelity": 1.0,
    }
    assert found["flicker"] == pytest.approx(1, abs=0.1) and found["change"] == pytest.approx(1, abs=0.1)


def test_reading_sees_each_thing_that_is_wrong(world):
    clips, labels = drawn(world)
    right = world.measure(clips, labels)
    backwards = world.measure(clips.flip(1), labels)
    assert (
        backwards["motion_fidelity"] == 0 and backwards["colour_fidelity"] == backwards["shape_fidelity"] == 1
    )
    recoloured = world.measure(clips[:, :, [1, 2, 0]], labels)
    assert recoloured["colour_fidelity"] < 0.3 and recoloured["motion_fidelity"] == 1
    others = (labels + 16) % 48  # the same colour and heading, another shape
    assert world.measure(clips, others)["shape_fidelity"] == 0
    shuffled = world.measure(clips[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))], labels)
    assert shuffled["flicker"] > 1.5 and shuffled["clip_distance"] > 1.5 * right["clip_distance"]
    assert shuffled["frame_distance"] == pytest.approx(right["frame_distance"], rel=1e-3)


def test_noise_is_far_from_every_frame(world):
    true, _ = drawn(world, 32)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert world.frame_curve(noise).min() > 20 * world.frame_curve(true).max()


def test_true_streams_of_any_length_stay_as_good_as_they_began(world):
    curve = world.frame_curve(drawn(world, 32, frames=40)[0])
    assert len(curve) == 40 and float(curve[-8:].mean()) < 1.3 * float(curve[:8].mean())


def test_the_background_is_told_from_what_moves(world):
    clips, labels = drawn(world)
    share, paint = seen(clips)
    assert 0.05 < float(share.mean()) < 0.35 and paint.shape == (48, 3)


def test_the_exact_denoiser_gives_a_training_clip_back(world):
    clips, _ = world.data("train")
    process, t = Flow(), torch.full((3,), 0.05)
    x = process.noise(clips[:3], t, torch.randn(3, *world.shape, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(world.exact(process)(x, t).x0, clips[:3], atol=1e-4, rtol=0)


def test_conditions_and_labels(world):
    pred = world.condition(torch.tensor([3, -1]))
    assert pred["tokens"].shape == (2, 5, 48) and pred["mask"].sum(1).tolist() == [5, 0]
    assert len(set(world.balanced_labels(42).tolist())) == 42 and torch.equal(
        world.balanced_labels(5), world.balanced_labels(5)
    )
    with pytest.raises(StillhouseError, match="0 … 47"):
        world.condition(torch.tensor([48]))
    with pytest.raises(StillhouseError, match="at least one frame"):
        drawn(world, 4, frames=0)
    asked = torch.tensor([5, 7, -1, 5])
    assert torch.equal(world.sample_data(4, Draws(4, 0), asked)[1][[0, 1, 3]], asked[[0, 1, 3]])


def test_fresh_clips_repeat_with_their_seed(world):
    assert torch.equal(drawn(world, 8)[0], drawn(world, 8)[0]) and not torch.equal(
        drawn(world, 8)[0], drawn(world, 8, seed=1)[0]
    )
    assert isinstance(world, DrawnClips)
