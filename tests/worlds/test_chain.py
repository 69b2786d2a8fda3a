"""The chain's world: its texts, its likelihood, and its exact denoiser against enumeration of every text."""

import itertools
import math

import pytest
import torch

from stillhouse.core.discrete import Masked, Uniform
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.core.token_prediction import of_words
from stillhouse.worlds.text.chain import Chain

torch.set_num_threads(1)
ROWS = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.7, 0.0]]
SMALL = Chain(transition=ROWS, length=4)
TEXTS = torch.tensor(list(itertools.product(range(3), repeat=4)))


def enumerated(seen: torch.Tensor, skip: int | None = None) -> torch.Tensor:
    """``p(x^l | evidence)`` (L, V) by the sum over all texts; ``seen`` (L, V): likelihoods; the evidence at
    ``skip`` left out."""
    places = [place for place in range(4) if place != skip]
    weight = SMALL.log_prob(TEXTS).exp() * torch.stack(
        [seen[place, TEXTS[:, place]] for place in places]
    ).prod(0)
    p = torch.stack(
        [torch.stack([weight[TEXTS[:, place] == v].sum() for v in range(3)]) for place in range(4)]
    )
    return p / p.sum(1, keepdim=True)


def test_probabilities_of_all_texts_add_up_to_one():
    assert SMALL.log_prob(TEXTS).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("x_t", [[3, 3, 3, 3], [0, 3, 3, 1], [3, 2, 3, 3], [1, 2, 3, 1], [2, 1, 2, 0]])
def test_masked_denoiser_is_the_posterior(x_t):
    x = torch.tensor([x_t])
    seen = torch.stack([torch.ones(3) if v == 3 else torch.eye(3)[v] for v in x_t]).double()
    pred = of_words(SMALL.exact(Masked(3))(x, torch.tensor([0.5]))).log_probs[0].exp()
    torch.testing.assert_close(pred, enumerated(seen), atol=1e-12, rtol=0)


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("x_t", [[0, 0, 1, 2], [2, 2, 0, 1]])
def test_uniform_denoiser_leaves_its_own_position_out(t, x_t):
    process, x, time = Uniform(3), torch.tensor([x_t]), torch.tensor([t], dtype=torch.float64)
    alpha = float(process.alpha(time))
    seen = torch.stack([alpha * torch.eye(3, dtype=torch.float64)[v] + (1 - alpha) / 3 for v in x_t])
    pred = of_words(SMALL.exact(process)(x, time)).log_probs
    for place in range(4):
        torch.testing.assert_close(
            pred[0, place].exp(), enumerated(seen, skip=place)[place], atol=1e-12, rtol=0
        )
    torch.testing.assert_close(
        process.including(pred, x, time)[0].exp(), enumerated(seen), atol=1e-12, rtol=0
    )


def test_the_chain_of_the_card():
    world = Chain()
    x, labels = world.sample_data(20000, Draws(20000, "card"))
    assert x.shape == (20000, 12) and x.dtype == torch.int64 and (labels == -1).all()
    found = world.measure(x)
    entropy_of_a_row = -(2 * 0.45 * math.log(0.45) + 4 * 0.025 * math.log(0.025))
    assert found["nll"] == pytest.approx((math.log(6) + 11 * entropy_of_a_row) / 12, abs=0.004)
    assert found["nll"] == pytest.approx(1.144, abs=0.006) and found["bigram_entropy"] == pytest.approx(
        2.80, abs=0.02
    )
    shares = torch.stack([torch.bincount(x[:, 1:][x[:, :-1] == v], minlength=6).double() for v in range(6)])
    torch.testing.assert_close(shares / shares.sum(1, keepdim=True), world.chain, atol=0.01, rtol=0)
    assert torch.equal(world.data("test")[0], world.data("test")[0]) and len(world.data("test")[0]) == 4000


def test_what_the_chain_never_writes_has_no_likelihood():
    assert SMALL.log_prob(torch.tensor([[2, 2, 1, 1]])).item() == -math.inf
    assert SMALL.display.view(torch.tensor([[0, 1, 2, 3]])).texts == ["abc_"]


@pytest.mark.parametrize("process", [Masked(3), Uniform(3)])
def test_its_network_speaks_of_its_letters(process):
    net = SMALL.network(process, 0, width=16, depth=1)
    x, t = process.start(Draws(5, "x"), (4,)), torch.full((5,), 0.5)
    assert of_words(net(x, t)).log_probs.shape == (5, 4, 3)
    with torch.no_grad():
        net.net.blocks[0].last.weight.fill_(0.1)  # a fresh block adds nothing
    heard = bool((net(x, t).raw != net(x, t * 0.3).raw).any())
    assert heard == isinstance(process, Uniform)


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: Chain(transition=[[0.5, 0.5]]), "square table"),
        (lambda: Chain(transition=[[0.5, 0.6], [0.5, 0.5]]), "add up to 1"),
        (lambda: Chain(transition=[[1.5, -0.5], [0.5, 0.5]]), "add up to 1"),
        (lambda: Chain(length=1), "at least 2 letters, not 1"),
        (lambda: Chain("flow"), "works on tokens"),
        (lambda: SMALL.exact(Masked(6)), "3 letters; the process has a vocabulary of 6"),
        (lambda: SMALL.exact(Flow()), "works on tokens"),
        (lambda: SMALL.measure(torch.full((8, 4), 3)), "numbers 0 … 2"),
        (lambda: SMALL.data("dev"), "splits 'train' and 'test'"),
        (
            lambda: SMALL.network(Masked(3))(torch.zeros(1, 5, dtype=torch.long), torch.ones(1)),
            "texts of 4 tokens",
        ),
    ],
)
def test_bad_input_is_told(make, words):
    with pytest.raises(StillhouseError, match=words):
        make()
