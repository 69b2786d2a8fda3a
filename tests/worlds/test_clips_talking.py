import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.clips.talking import FRAMES, SPEEDS, TalkingClips, spoken


@pytest.fixture(scope="module")
def world():
    return TalkingClips()


def test_syllables_are_binary_digits_said_over_and_over():
    assert spoken(torch.tensor([5]), 14)[0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0]


def test_all_clips_are_different_and_in_step_with_what_is_told(world):
    clips, labels = world.data()
    assert len(clips) == 3072 and len(clips.flatten(1).unique(dim=0)) == 3072
    found = world.measure(clips[::7], labels[::7])
    assert found["sync"] == found["motion_fidelity"] == 1 and found["clip_distance"] < 1e-3
    silent = world.measure(
        clips[::7], labels[::7] % len(SPEEDS)
    )  # as if nobody had spoken: half of the syllables are closed
    assert silent["sync"] == pytest.approx(0.5, abs=0.05) and silent["motion_fidelity"] == 1


def test_the_network_is_told_loudness_frame_by_frame(world):
    told = world.condition(torch.tensor([world.balanced_labels(8)[5], -1]))
    open = spoken(world.balanced_labels(8)[5:6] // len(SPEEDS))[0]
    assert (
        told["features"].shape == (2, FRAMES, 2)
        and not told["features"][1].any()
        and told["mask"].sum(1).tolist() == [2, 0]
    )
    assert (told["features"][0, 1::2, 1] - open[1::2]).abs().max() < 0.15
    assert world.condition(torch.tensor([7]), 64)["features"].shape == (1, 64, 2)
    with pytest.raises(StillhouseError, match="0 … 191"):
        world.condition(torch.tensor([192]))


def sampled(world, cond, n=48):
    return draw_samples(
        world.exact(Flow()), Sampling.steps(Flow(), 8, solver="ddim"), world.shape, cond, Draws(n, 0)
    )


def test_the_exact_denoiser_obeys_what_it_is_told_and_nothing_else(world):
    labels = world.balanced_labels(48)
    both = world.condition(labels)
    pred, speed, heard = (
        world.measure(sampled(world, told), labels)
        for told in (both, {k: both[k] for k in ("tokens", "mask")}, {"features": both["features"]})
    )
    assert pred["sync"] == pred["motion_fidelity"] == 1
    assert speed["motion_fidelity"] == 1 and speed["sync"] < 0.7
    assert heard["sync"] == 1 and heard["motion_fidelity"] < 0.4
    assert max(f["clip_distance"] for f in (pred, speed, heard)) < 1e-2


def test_the_marginal_is_the_mean_of_the_conditional_ones(world):
    exact, x, labels = world.exact(Flow()), torch.zeros(192, *world.shape), torch.arange(192)
    every = exact(x, torch.ones(192), world.condition(labels)).x0.mean(0)
    torch.testing.assert_close(exact(x[:1], torch.ones(1)).x0[0], every, atol=1e-5, rtol=0)


def test_sound_of_another_length_or_world_is_refused(world):
    exact, x = world.exact(Flow()), torch.zeros(1, *world.shape)
    with pytest.raises(StillhouseError, match="sound features of as many"):
        exact(x, torch.ones(1), {"features": torch.ones(1, 4, 2)})
    with pytest.raises(StillhouseError, match="No clip of this world has that loudness"):
        exact(x, torch.ones(1), {"features": torch.full((1, FRAMES, 2), 9.0)})
