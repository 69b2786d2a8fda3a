"""Conditions of every form go through the same few functions."""

import pytest
import torch

from stillhouse.core.conditions import (
    apply,
    as_parts,
    as_tensor,
    balanced_labels,
    cycled,
    drop_condition,
    expand,
    flattened,
    join,
    pick,
    restored,
    size,
)
from stillhouse.core.errors import StillhouseError
from stillhouse.models import build_model

LABELS = torch.arange(4)
TOKENS = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))
PAIR = {"tokens": TOKENS, "pooled": TOKENS[:, 0]}


@pytest.mark.parametrize("cond", [LABELS, TOKENS, PAIR])
def test_rows_can_be_picked_repeated_joined_and_stored(cond):
    assert size(cond) == 4
    halves = join([pick(cond, torch.tensor([0, 1])), pick(cond, slice(2, 4))])
    again = restored(flattened(cond))["cond"]
    for other in (halves, again):
        apply(lambda part: part, other)
        pairs = zip(other.values(), cond.values(), strict=True) if isinstance(cond, dict) else [(other, cond)]
        assert all(torch.equal(a, b) for a, b in pairs)
    assert size(cycled(cond, 7)) == 7 and size(expand(pick(cond, slice(0, 1)), 5)) == 5


def test_nothing_stays_nothing():
    assert size(None) is None and pick(None, LABELS) is None and drop_condition(None, LABELS > 0) is None
    assert (
        join([None, None]) is None
        and flattened(None) == {}
        and cycled(None, 3) is None
        and balanced_labels(3, 0) is None
    )
    with pytest.raises(StillhouseError, match="can't be joined"):
        join([None, LABELS])


def test_a_condition_of_another_form_is_refused():
    assert as_tensor(LABELS) is LABELS and as_parts(PAIR) is PAIR
    for other in (None, PAIR):
        with pytest.raises(StillhouseError, match="one tensor"):
            as_tensor(other)
    for other in (None, LABELS):
        with pytest.raises(StillhouseError, match="a dict of tensors"):
            as_parts(other)
    for rows in ([LABELS, PAIR], [PAIR, TOKENS], [LABELS, None]):
        with pytest.raises(StillhouseError, match="can't be joined"):
            join(rows)


def test_hidden_rows_are_unconditional_to_a_network_of_ours():
    kept = torch.tensor([True, False, True, False])
    assert drop_condition(LABELS, ~kept).tolist() == [0, -1, 2, -1]
    net = build_model({"name": "unet", "image_channels": 1, "channels": (8, 8), "token_dim": 8}, 0)
    torch.nn.init.normal_(net.output.weight)
    torch.nn.init.normal_(net.mid.cross.out.weight)
    x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((4,), 0.5)
    pred, told, nothing = net(x, t, drop_condition(TOKENS, ~kept)), net(x, t, TOKENS), net(x, t, None)
    torch.testing.assert_close(pred[kept], told[kept])
    torch.testing.assert_close(pred[~kept], nothing[~kept])
    assert not torch.allclose(told[~kept], nothing[~kept], atol=1e-4)


def test_a_foreign_networks_own_empty_condition_takes_the_place():
    empty = {"tokens": torch.zeros(1, 3, 8), "pooled": torch.full((1, 8), 9.0)}
    hidden = drop_condition(PAIR, torch.tensor([False, False, True, False]), empty)
    assert float(hidden["pooled"][2].min()) == 9.0 and float(hidden["tokens"][2].abs().max()) == 0.0
    assert torch.equal(hidden["tokens"][[0, 1, 3]], TOKENS[[0, 1, 3]])
