"""Randomness of a run comes from names, and leaves the global generators as they were."""

from __future__ import annotations

import torch
from torch.nn.functional import dropout

from stillhouse.core.draws import seeded

CPU = torch.device("cpu")


def test_dropout_starts_from_the_seed_and_nothing_outside_notices():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    with seeded(7, CPU):
        mask = dropout(torch.ones(99), 0.5)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(7)
    assert torch.equal(dropout(torch.ones(99), 0.5), mask)


def test_the_outer_state_comes_back_after_an_error():
    before = torch.default_generator.get_state()
    try:
        with seeded(7, CPU):
            torch.rand(3)
            raise ValueError
    except ValueError:
        pass
    assert torch.equal(torch.default_generator.get_state(), before)
