"""N-grams, entropies and likelihood bounds against what they should be."""

import math

import pytest
import torch

from stillhouse.core.discrete import Masked
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.language import NGram, codes, distinct, entropy, held_out_bits
from stillhouse.opening import load
from stillhouse.worlds.text.world import make_text


def test_runs_as_numbers():
    assert codes(torch.tensor([[1, 0, 2]]), 2, 3).tolist() == [[3, 2]]
    with pytest.raises(StillhouseError, match="62 bits"):
        codes(torch.zeros(1, 20, dtype=torch.long), 20, 46)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_n_gram_model_is_a_distribution(order):
    text = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(0))
    model = NGram(text, 5, order)  # token 4 never occurs
    for context in ([0, 1], [4, 4], [2, 4]):
        rows = torch.tensor([[*context, last] for last in range(5)])
        assert model.log_probs(rows)[:, -1].exp().sum().item() == pytest.approx(1, abs=1e-12)
        assert bool((model.log_probs(rows).exp() > 0).all())


def test_bigrams_by_hand():
    model = NGram(torch.tensor([0, 1, 0, 1, 1]), 2, 2)
    first = (2 - 0.75) / 5 + 0.75 * 2 / 5 * 0.5  # of token 0: seen twice in five
    after = (2 - 0.75) / 2 + 0.75 * 1 / 2 * (1 - first)  # of 1 after 0: both times
    pred = model.log_probs(torch.tensor([[0, 1]])).exp()
    assert pred.tolist()[0] == pytest.approx([first, after])
    assert model.perplexity(torch.tensor([[0, 1]])) == pytest.approx((first * after) ** -0.5)


def test_it_finds_the_entropy_rate_of_a_long_chain():
    world = make_text("chain", length=1000)
    text = world.sample_data(200, Draws(200, "long"))[0]
    model = NGram(text[:150].flatten(), 6, 3)
    rate = -(2 * 0.45 * math.log(0.45) + 4 * 0.025 * math.log(0.025))
    assert math.log(model.perplexity(text[150:])) == pytest.approx(rate, rel=0.01)
    assert math.log(NGram(text[:150].flatten(), 6, 1).perplexity(text[150:])) > 1.3 * rate


def test_entropy_and_variety():
    even = torch.arange(8).reshape(2, 4)
    assert (
        entropy(even, 8) == pytest.approx(math.log(8))
        and entropy(torch.zeros(2, 4, dtype=torch.long), 8) == 0
    )
    assert distinct(even, 8, 2) == 1 and distinct(torch.zeros(2, 4, dtype=torch.long), 8, 2) == 1 / 6


def test_the_bound_of_the_exact_chain_is_its_entropy():
    """With the exact denoiser the bound is tight, up to the signal that is left at t = 1 and the noise of
    times and masks."""
    world = make_text("chain")
    exact = load(world.exact(Masked(6)), shape=world.shape)
    bits = held_out_bits(exact, world.data("test")[0], rounds=2)
    assert bits == pytest.approx(1.144 / math.log(2), rel=0.02)
    worse = load(world.network(Masked(6)), shape=world.shape)
    assert held_out_bits(worse, world.data("test")[0][:500], rounds=1) > 1.2 * bits
