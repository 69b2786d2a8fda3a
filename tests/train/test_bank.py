"""The bank: made in parts it is the same bank, and it shows how far it is."""

import io

import pytest
import torch

from stillhouse.train import bank
from stillhouse.train.data import TensorData
from stillhouse.train.engine import Engine
from stillhouse.train.feed import Feed
from stillhouse.train.recipe import Recipe


class Rows:
    """A method's bank: noise beside its condition, by one call of the teacher for each part."""

    def __init__(self, size):
        self.bank_size, self.bank_refresh, self.largest = size, 0, 0
        self.teacher = torch.nn.Identity()

    def bank_rows(self, draws, cond):
        self.largest = max(self.largest, draws.rows)
        return {"eps": self.teacher(draws.normal(3)), "cond": cond}


def filled(size, in_parts, folder=None, show=False):
    method = Rows(size)
    data = TensorData(torch.zeros(40, 3), torch.arange(40), 40)
    feed = Feed(method, data, Recipe(steps=1, batch=8), Engine(device="cpu"), (3,), folder, show=show)
    feed.in_parts = in_parts
    feed.open_bank(0)
    return feed.bank, method


@pytest.mark.parametrize("size", [20, 1, 7])
def test_a_bank_in_parts_is_the_same_bank(size):
    whole, method = filled(size, in_parts=False)
    parts, other = filled(size, in_parts=True)
    assert method.largest == size and other.largest <= 8
    assert whole.keys() == parts.keys() and all(torch.equal(v, parts[k]) for k, v in whole.items())


def test_a_bank_shows_rows_and_calls_of_the_teacher(monkeypatch, tmp_path):
    shown = io.StringIO()
    plain = bank.tqdm
    monkeypatch.setattr(bank, "tqdm", lambda **how: plain(**{**how, "file": shown, "mininterval": 0}))
    monkeypatch.setattr(bank, "REFRESHED", 0.0)
    _, method = filled(20, in_parts=True, folder=tmp_path, show=True)
    assert "20/20" in shown.getvalue() and "4 calls of the teacher" in shown.getvalue()
    assert not method.teacher._forward_hooks
    _, again = filled(20, in_parts=True, folder=tmp_path, show=True)
    assert again.largest == 0  # read from its files
