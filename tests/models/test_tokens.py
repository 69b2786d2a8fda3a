"""The token transformer and the tokens of characters."""

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.models import build_model
from stillhouse.models.letters import Letters, texts_of, tokenizer_from, with_gaps
from stillhouse.models.tokens import TokenTransformer, turned, turns

SMALL = {"name": "token_transformer", "vocab": 5, "length": 12, "dim": 16, "depth": 2, "heads": 2}


def lively(**options) -> TokenTransformer:
    net = build_model({**SMALL, **options}, 0)
    torch.nn.init.normal_(net.output.weight, generator=torch.Generator().manual_seed(0))
    return net.double()


def test_it_says_nothing_at_first_and_only_of_real_tokens():
    net, x = build_model(SMALL, 0), torch.randint(0, 6, (3, 12), generator=torch.Generator().manual_seed(1))
    assert net(x, torch.ones(3)).shape == (3, 12, 5) and bool((net(x, torch.ones(3)) == 0).all())
    assert build_model(net.config, 0).state_dict().keys() == net.state_dict().keys()


def test_it_sees_both_sides_and_ignores_time_unless_timed():
    net, x = lively(), torch.randint(0, 6, (1, 12), generator=torch.Generator().manual_seed(1))
    pred = net(x, torch.ones(1, dtype=torch.float64))
    for place in (0, 11):
        other = x.clone()
        other[0, place] = (x[0, place] + 1) % 6
        moved = (net(other, torch.ones(1, dtype=torch.float64)) - pred).abs().amax(-1)[0]
        assert bool((moved > 1e-6).all())
    assert torch.equal(pred, net(x, torch.zeros(1, dtype=torch.float64)))
    timed = lively(timed=True)
    torch.nn.init.normal_(timed.time.last.weight, generator=torch.Generator().manual_seed(2))
    assert (timed(x, torch.ones(1).double()) - timed(x, torch.zeros(1).double())).abs().max() > 1e-3


def test_rotary_attention_depends_on_the_distance_alone():
    reference = torch.zeros(1, dtype=torch.float64)
    cos, sin = turns(20, 8, reference)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = turned(q.expand(20, -1), cos, sin) @ turned(k.expand(20, -1), cos, sin).T
    assert torch.allclose(score[2, 7], score[11, 16], atol=1e-12) and (score[2, 7] - score[2, 8]).abs() > 1e-3


def test_what_it_can_t_read_is_refused():
    net = build_model(SMALL, 0)
    with pytest.raises(StillhouseError, match="up to 12 tokens"):
        net(torch.zeros(1, 13, dtype=torch.long), torch.ones(1))
    with pytest.raises(StillhouseError, match="takes no condition"):
        net(torch.zeros(1, 12, dtype=torch.long), torch.ones(1), torch.zeros(1, dtype=torch.long))
    with pytest.raises(StillhouseError, match="at least two tokens"):
        build_model({**SMALL, "vocab": 1})


def test_letters_there_and_back():
    letters = Letters(" abc.")
    assert letters.encode("A b_") == [1, 0, 2, 5] and letters.size == 5
    assert letters.decode([1, 0, 5]) == "a ▁"
    assert tokenizer_from(letters.describe()).encode("c.") == [3, 4] and tokenizer_from(None) is None
    assert texts_of(letters, torch.tensor([[1, 2], [3, 4]])) == ["ab", "c."]
    with pytest.raises(StillhouseError, match="no token for '!'"):
        letters.encode("a!")
    with pytest.raises(StillhouseError, match="can't hold it"):
        Letters("ab_")


def test_prompts_become_states_with_gaps():
    letters = Letters("abc")
    assert with_gaps(letters, ["a__b", ""], 5).tolist() == [[0, 3, 3, 1, 3], [3] * 5]
    with pytest.raises(StillhouseError, match="'abcabc' has 6 tokens, the model writes 5"):
        with_gaps(letters, ["abcabc"], 5)
