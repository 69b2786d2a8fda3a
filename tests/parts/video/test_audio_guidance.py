import pytest
import torch

from stillhouse.core.denoiser import count_calls
from stillhouse.core.schedules import Flow
from stillhouse.parts.video.audio_guidance import TwoGuided, null_condition, without_audio
from stillhouse.worlds.clips.talking import TalkingClips


@pytest.fixture(scope="module")
def world():
    return TalkingClips()


@pytest.fixture(scope="module")
def asked(world):
    x = torch.randn(6, *world.shape, generator=torch.Generator().manual_seed(0))
    return x, torch.full((6,), 0.9), world.condition(world.balanced_labels(6))


def answers(world, asked):
    exact, (x, t, cond) = world.exact(Flow()), asked
    return exact, exact(x, t).x0, exact(x, t, text_of(cond)).x0, exact(x, t, cond).x0


def text_of(cond):
    return {"tokens": cond["tokens"], "mask": cond["mask"]}


def test_what_is_left_when_a_part_is_hidden(asked):
    cond = asked[2]
    assert not without_audio(cond)["features"].any() and torch.equal(
        without_audio(cond)["mask"], cond["mask"]
    )
    assert not null_condition(cond)["features"].any() and not null_condition(cond)["mask"].any()
    assert cond["features"].any()  # the condition itself is left alone


def test_two_scales_are_the_formula(world, asked):
    exact, empty, text, both = answers(world, asked)
    pred = TwoGuided(exact, 3.0, 1.5)(*asked).x0
    torch.testing.assert_close(pred, empty + 3 * (text - empty) + 1.5 * (both - text), atol=1e-5, rtol=0)
    assert float((both - text).abs().max()) > 0.05 and float((text - empty).abs().max()) > 0.05


@pytest.mark.parametrize("scale,sound,calls", [(1.0, 1.0, 1), (4.0, 4.0, 2), (4.0, 2.0, 3), (1.0, 2.0, 3)])
def test_equal_scales_collapse_to_two_passes_and_none_to_one(world, asked, scale, sound, calls):
    exact, empty, text, both = answers(world, asked)
    with count_calls(exact) as spent:
        pred = TwoGuided(exact, scale, sound)(*asked).x0
    assert spent() == calls
    torch.testing.assert_close(
        pred, empty + scale * (text - empty) + sound * (both - text), atol=1e-5, rtol=0
    )


def test_without_sound_it_is_plain_guidance(world, asked):
    exact, empty, text, _ = answers(world, asked)
    x, t, cond = asked
    torch.testing.assert_close(
        TwoGuided(exact, 3.0, 7.0)(x, t, text_of(cond)).x0, empty + 3 * (text - empty), atol=1e-5, rtol=0
    )
    assert torch.equal(TwoGuided(exact, 3.0, 7.0)(x, t).x0, empty)


def test_what_is_left_behind_is_the_negative_prompt_without_sound(world, asked):
    exact, (x, t, cond) = world.exact(Flow()), asked
    other = {name: part[:1] for name, part in text_of(cond).items()}
    exact.negative_condition = other
    negative = exact(x, t, {name: part.expand(6, *part.shape[1:]) for name, part in other.items()}).x0
    text, both = exact(x, t, text_of(cond)).x0, exact(x, t, cond).x0
    expected = negative + 3 * (text - negative) + 1.5 * (both - text)
    torch.testing.assert_close(TwoGuided(exact, 3.0, 1.5)(x, t, cond).x0, expected, atol=1e-5, rtol=0)
    away = TwoGuided(exact, 3.0, 1.5).away_from(cond)
    assert not away["features"].any() and torch.equal(away["tokens"][5], other["tokens"][0])
