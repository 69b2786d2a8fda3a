import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.worlds.base import get_world
from stillhouse.worlds.tones.world import INSTRUMENTS, LOUD, PACE, QUIET, loudness, play, spectrum, utter


@pytest.fixture(scope="module")
def world():
    return get_world("tones")


def test_a_flute_is_almost_one_frequency_and_a_string_is_many():
    one = torch.ones(1)
    flute, string = (
        spectrum(play(torch.tensor([list(INSTRUMENTS).index(n)]), 8 * one, 0 * one, one))[0]
        for n in ("flute", "string")
    )
    assert int(flute.argmax()) == int(string.argmax()) == 8
    assert float(flute[6:11].square().sum()) > 0.95 > 0.7 > float(string[6:11].square().sum())


def test_notes_of_each_instrument_are_told_apart(world):
    notes, labels = world.data("test")
    found = world.measure(notes, labels)
    assert found["accuracy"] > 0.98 and found["spectral_distance"] < 0.01
    assert world.measure(notes, (labels + 1) % 5)["accuracy"] < 0.02
    noise = torch.randn(notes.shape, generator=torch.Generator().manual_seed(0)) * notes.std()
    assert world.measure(noise, labels)["spectral_distance"] > 50 * found["spectral_distance"]


def test_notes_are_drawn_by_label_and_repeat_with_their_seed(world):
    asked = torch.tensor([0, 4, -1, 2])
    notes, labels = world.sample_data(4, Draws(4, 1), asked)
    assert torch.equal(labels[[0, 1, 3]], asked[[0, 1, 3]]) and notes.abs().max() <= 1
    assert torch.equal(notes, world.sample_data(4, Draws(4, 1), asked)[0])


def test_the_exact_denoiser_hears_the_instrument(world):
    denoiser, labels = world.exact(Flow()), torch.arange(5)
    x = torch.randn(5, *world.shape, generator=torch.Generator().manual_seed(0))
    apart = [denoiser(x, torch.full((5,), 0.9), label).x0 for label in (labels, torch.full((5,), -1))]
    assert float((apart[0] - apart[1]).abs().max()) > 0.01


def test_an_utterance_is_as_loud_as_it_is_open():
    open = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    sound = utter(open, torch.tensor([6.0, 9.0]))
    assert sound.shape == (2, 6 * PACE) and float(sound.abs().max()) <= 1
    heard = loudness(sound, 6)
    torch.testing.assert_close(heard[0, [1, 3, 5]], torch.tensor([QUIET, LOUD, QUIET]), atol=0.03, rtol=0)
    torch.testing.assert_close(heard[1], torch.full((6,), LOUD), atol=0.08, rtol=0)


def test_sound_and_clip_must_fit():
    with pytest.raises(StillhouseError, match="rates that fit"):
        loudness(torch.zeros(1, 100), 7)
    with pytest.raises(StillhouseError, match="one frame or more"):
        utter(torch.zeros(2, 0), torch.ones(2))


def test_notes_as_pictures(world):
    notes, _ = world.sample_data(4, Draws(4, 0))
    pictures = world.display.view(notes).images
    assert pictures.shape == (4, 1, 64, 256) and float(pictures.amin()) < 0 < float(pictures.amax()) <= 1
