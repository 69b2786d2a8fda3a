"""Rows follow from their position alone."""

import pytest
import torch

from stillhouse.draws import Draws
from stillhouse.errors import StillhouseError
from stillhouse.train.data import NoData, TensorData


def rows(data, start, n, **part):
    return data.rows(start, Draws(n, 0, start, **part))


def test_every_epoch_shows_every_sample_once_in_another_order():
    data = TensorData(torch.arange(10.0)[:, None], seed=3)
    seen = torch.cat([rows(data, start, 4)[0] for start in range(0, 20, 4)]).flatten().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]


def test_processes_share_one_order():
    data = TensorData(torch.arange(10.0)[:, None], torch.arange(10) % 3, 3)
    whole, labels = rows(data, 8, 6)
    parts = [rows(data, 8, 3, rank=r, world=2) for r in (0, 1)]
    assert torch.equal(whole, torch.cat([p[0] for p in parts])) and torch.equal(labels, torch.cat([p[1] for p in parts]))


def test_draws_are_slices_of_the_global_batch():
    whole = Draws(6, 1, "x").normal(2)
    assert torch.equal(whole, torch.cat([Draws(3, 1, "x", rank=r, world=2).normal(2) for r in (0, 1)]))
    assert Draws(3, 1, "x", rank=1, world=2).one_integer(0, 1000) == Draws(6, 1, "x").one_integer(0, 1000)


def test_no_data_gives_conditions():
    x, cond = rows(NoData((2,), 4), 0, 100)
    assert x is None and set(cond.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "x, labels, what",
    [
        (torch.zeros(0, 2), None, "empty"),
        (torch.tensor([[0.0], [float("nan")]]), None, "sample 1"),
        (torch.zeros(3, 1), torch.tensor([0, 1, 5]), "0 … 2"),
        (torch.zeros(3, 1), torch.tensor([0, 1]), "2 labels"),
    ],
)
def test_bad_data_is_refused(x, labels, what):
    with pytest.raises(StillhouseError, match=what):
        TensorData(x, labels, 3)
