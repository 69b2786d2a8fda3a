"""English prose as a world: what counts as prose, how it is split, what it measures."""

import math

import pytest
import torch

from stillhouse.core.discrete import Masked, Uniform
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow, process_from_config
from stillhouse.worlds.base import get_world
from stillhouse.worlds.text.letters import ALPHABET, corpus, documents, prose

GOOD = (
    "The quick brown fox, which is :func:`very` free,\n   jumps over a *lazy* dog that has been lying "
    "in the way since the morning."
)


@pytest.fixture(scope="module")
def world():
    return get_world("text")


def test_what_counts_as_prose():
    kept = prose(
        f"{GOOD}\n\nToo short.\n\n{GOOD[:-1]}\n\n{GOOD.replace('fox', '<fox>')}\n\n"
        + "1234567890 " * 12
        + "."
    )
    assert len(kept) == 1 and kept[0].startswith(
        "the quick brown fox, which is very free, jumps over a lazy dog"
    )


def test_the_text_is_english_of_one_alphabet_and_its_documents_are_split():
    found, texts = documents(), corpus()
    assert (
        1_000_000 < len(texts["train"]) < 4_000_000 and 60_000 < len(texts["test"]) < len(texts["train"]) / 3
    )
    assert all(int(text.max()) < len(ALPHABET) == 46 for text in texts.values())
    assert {name.partition("/")[0] for name in found} == {"topic", "python", "numpy", "scipy", "sklearn"}
    common = torch.bincount(texts["train"].long(), minlength=46).argsort(descending=True)[:4]
    assert "".join(ALPHABET[i] for i in common.tolist()) == " eta"


def test_windows_start_with_words_and_follow_from_the_draws(world):
    x, labels = world.sample_data(64, Draws(64, "x"))
    assert x.shape == (64, 64) and x.dtype == torch.long and bool((labels == -1).all())
    assert not bool((x[:, 0] == ALPHABET.index(" ")).any())
    assert torch.equal(x, world.sample_data(64, Draws(64, "x"))[0]) and not torch.equal(
        x, world.sample_data(64, Draws(64, "y"))[0]
    )
    held = {t for t in world.display.view(world.data("test")[0]).texts}
    assert (
        world.data("test")[0].shape == (1024, 64)
        and len(held & set(world.display.view(world.data("train")[0]).texts)) < 20
    )


def test_it_measures_likelihood_and_collapse(world):
    real = world.floor(500)
    assert 2.5 < real["perplexity"] < 6 and 2.8 < real["entropy"] < 3.1 and real["distinct"] > 0.5
    noise = torch.randint(0, 46, (500, 64), generator=torch.Generator().manual_seed(0))
    assert world.measure(noise)["perplexity"] > 40 * real["perplexity"]
    one = world.measure(world.sample_data(1, Draws(1, "one"))[0].expand(500, -1))
    assert one["distinct"] < 0.01 and one["bigram_entropy"] < real["bigram_entropy"] - 1
    with pytest.raises(StillhouseError, match="0 … 45"):
        world.measure(torch.full((500, 64), 46))


def test_networks_and_processes(world):
    net = world.network(process_from_config(world.default_process), dim=16, depth=1)
    assert (
        net.process == Masked(46)
        and net.net.time is None
        and world.network(Uniform(46), dim=16, depth=1).net.time is not None
    )
    x = world.sample_data(4, Draws(4, "x"))[0]
    assert net(x, torch.ones(4)).log_probs.exp().sum(-1).allclose(torch.ones(4, 64))
    hidden = net(torch.full((1, 64), 46), torch.ones(1)).log_probs
    assert hidden.allclose(torch.full_like(hidden, -math.log(46)))


def test_what_it_refuses(world):
    for options, what in (
        ({"kind": "byte"}, "did you mean 'bytes'"),
        ({"process": "mask"}, "did you mean 'masked'"),
        ({"length": 4}, "8 to 1024 characters, not 4"),
        ({"size": 3}, "can't be made"),
    ):
        with pytest.raises(StillhouseError, match=what):
            get_world("text", **options)
    with pytest.raises(StillhouseError, match="no closed form"):
        world.exact(Masked(46))
    with pytest.raises(StillhouseError, match="'flow' is one of numbers"):
        world.network(Flow())
    assert get_world("text", kind="chain").tokenizer.encode("abf_") == [0, 1, 5, 6]
