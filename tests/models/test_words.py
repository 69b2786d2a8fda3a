"""The fixed text encoder: what two prompts share they share in numbers, and what it can't take it says."""

import json
import logging

import pytest
import torch

from stillhouse.core.conditions import drop_condition
from stillhouse.core.errors import StillhouseError
from stillhouse.models import build_model
from stillhouse.models.words import Words

VOCABULARY = ("a", "above", "red", "blue", "circle", "square")


@pytest.fixture
def words():
    return Words(VOCABULARY, length=7, dim=32, seed=3)


def test_a_word_and_a_place_add_up(words):
    pred = words.encode(["a red circle above a blue square", "red", ""])
    assert pred["tokens"].shape == (3, 7, 32) and pred["tokens"].dtype == torch.float32
    assert pred["mask"].sum(1).tolist() == [7, 1, 0]
    tokens = pred["tokens"]
    assert not tokens[2].any() and not tokens[1, 1:].any()
    # the same word at two places differs by the places alone, and two words at one place by the words alone
    assert torch.allclose(tokens[0, 4] - tokens[0, 0], words.places[4] - words.places[0], atol=1e-6)
    assert torch.allclose(tokens[1, 0] - tokens[0, 0], words.vectors[2] - words.vectors[0], atol=1e-6)


def test_places_are_at_right_angles_and_as_long_as_words():
    words = Words([f"w{i}" for i in range(400)], length=8, dim=48)
    assert torch.allclose(words.places @ words.places.T, 24 * torch.eye(8), atol=1e-3)
    assert float(words.vectors.square().sum(1).mean()) == pytest.approx(24, rel=0.03)


def test_seed_and_word_alone_make_a_vector(words):
    other = Words(("square", "green", "red"), length=3, dim=32, seed=3)
    assert torch.equal(other.vectors[2], words.vectors[2]) and torch.equal(other.vectors[0], words.vectors[5])
    assert not torch.equal(Words(VOCABULARY, 7, 32, seed=4).vectors, words.vectors)


def test_description_makes_it_again(words):
    again = Words.from_description(json.loads(json.dumps(words.describe())))
    prompts = ["a blue circle", "above"]
    assert all(
        torch.equal(x, y)
        for x, y in zip(words.encode(prompts).values(), again.encode(prompts).values(), strict=True)
    )
    with pytest.raises(StillhouseError, match="'words', not as 'clip'"):
        Words.from_description({"name": "clip"})
    with pytest.raises(StillhouseError, match="can't be made"):
        Words.from_description({"name": "words", "size": 3})


def test_case_and_punctuation_are_passed_over(words):
    a, b = (
        words.encode(["A red Circle, above a blue square."]),
        words.encode(["a red circle above a blue square"]),
    )
    assert torch.equal(a["tokens"], b["tokens"])


def test_an_unknown_word_is_named_with_words_it_knows(words):
    with pytest.raises(StillhouseError, match="'pink', which is in 'a pink circle'; it has a, above, red"):
        words.encode(["a red circle", "a pink circle"])
    with pytest.raises(StillhouseError, match="did you mean 'square'"):
        words.encode(["a squar"])
    with pytest.raises(StillhouseError, match="list of prompts"):
        words.encode("a red circle")


def test_long_prompts_are_cut_counted_and_told_once(words, caplog):
    long = "a red circle above a blue square above a red square"
    with caplog.at_level(logging.WARNING, "stillhouse"):
        pred = words.encode([long, long, "red"])
        words.encode([long])
    assert [r.getMessage() for r in caplog.records] == [
        "2 prompt(s) have more than 7 words (up to 11); what is beyond is cut off."
    ]
    assert torch.equal(pred["tokens"][0], words.encode(["a red circle above a blue square"])["tokens"][0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"vocabulary": ()}, "at least one word"),
        ({"vocabulary": ("a", "a")}, "each one once"),
        ({"length": 0}, "not 0"),
        ({"dim": 7}, "not 7"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        Words(**{"vocabulary": VOCABULARY, **options})


def test_the_empty_prompt_is_a_network_s_empty_condition(words):
    net = build_model(
        {"name": "unet", "channels": [8, 16], "heads": 2, "token_dim": 32, "attention": 1}
    ).double()
    g = torch.Generator().manual_seed(0)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.1, generator=g)
    x, t = (
        torch.randn(2, 1, 8, 8, generator=g, dtype=torch.float64),
        torch.tensor([0.3, 0.8], dtype=torch.float64),
    )
    told = words.encode(["a red circle", ""])
    none, mixed = net(x, t), net(x, t, told)
    assert torch.allclose(mixed[1], none[1], atol=1e-12) and (mixed[0] - none[0]).abs().max() > 1e-4
    assert torch.allclose(
        net(x, t, drop_condition(words.encode(["red", "red"]), torch.tensor([True, True]))), none, atol=1e-12
    )
