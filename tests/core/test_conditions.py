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
    require_labels,
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


def test_rows_in_numbers():
    assert cycled(LABELS, 6).tolist() == [0, 1, 2, 3, 0, 1] and cycled(LABELS, 2).tolist() == [0, 1]
    assert pick(PAIR, LABELS > 1)["pooled"].equal(TOKENS[2:, 0])
    assert balanced_labels(5, 3).tolist() == [0, 1, 2, 0, 1]
    assert set(flattened(PAIR)) == {"cond.tokens", "cond.pooled"} and set(flattened(LABELS, "c")) == {"c"}
    stored = {"x": TOKENS, "c.a": LABELS, "cond.b": LABELS}
    assert restored(stored, "c") == {"x": TOKENS, "cond.b": LABELS, "c": {"a": LABELS}}
    assert restored({"x": TOKENS}) == {"x": TOKENS}
    rows = expand(LABELS[:1], 3)
    assert rows.tolist() == [0, 0, 0] and rows.data_ptr() == LABELS.data_ptr()


def test_labels_by_which_samples_are_measured():
    require_labels(torch.tensor([0, 3]), 4)
    require_labels(torch.tensor([0, 30]))
    require_labels(torch.tensor([], dtype=torch.long), 4)
    with pytest.raises(StillhouseError, match="from 0 on, not -1"):
        require_labels(torch.tensor([2, -1]), 4)
    with pytest.raises(StillhouseError, match="Labels lie in 0 … 3, not 4"):
        require_labels(torch.tensor([2, 4]), 4)


def test_rows_that_lose_their_condition():
    gone = torch.tensor([True, False, False, True])
    assert drop_condition(LABELS, gone).tolist() == [-1, 1, 2, -1]
    assert drop_condition(LABELS, True) is None and drop_condition(PAIR, False) is PAIR
    made = drop_condition(TOKENS, gone)
    assert set(made) == {"tokens", "mask"} and made["tokens"] is TOKENS
    assert made["mask"].tolist() == [[False] * 3, [True] * 3, [True] * 3, [False] * 3]
    masked = torch.tensor([[True, True, False]] * 4)
    made = drop_condition({"tokens": TOKENS, "mask": masked, "label": LABELS, "size": LABELS}, gone)
    assert made["mask"].tolist() == [[False] * 3, [True, True, False], [True, True, False], [False] * 3]
    assert made["label"].tolist() == [-1, 1, 2, -1] and made["size"] is LABELS
    assert set(drop_condition({"label": LABELS}, gone)) == {"label"}
    empty = {"tokens": torch.ones(1, 3, 8), "pooled": torch.full((1, 8), 2.0)}
    made = drop_condition(PAIR, gone, empty)
    assert (made["tokens"][0] == 1).all() and (made["pooled"][3] == 2).all()
    assert torch.equal(made["tokens"][1:3], TOKENS[1:3]) and torch.equal(made["pooled"][1], TOKENS[1, 0])
    made = drop_condition(TOKENS, gone, torch.full((1, 3, 8), 3.0))
    assert (made[0] == 3).all() and torch.equal(made[1], TOKENS[1])


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
