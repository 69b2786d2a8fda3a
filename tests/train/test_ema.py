"""Averages of weights against their closed forms."""

import pytest
import torch

from stillhouse.train.ema import EMA, decay_at
from stillhouse.train.recipe import Recipe


def follow(recipe, values):
    """The average of a weight that takes ``values`` after each step, started at 0."""
    source, copy = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    copy.weight.data.zero_()
    slow = EMA(copy.double(), source.double(), lambda step: decay_at(recipe, step))
    for step, value in enumerate(values):
        source.weight.data.fill_(value)
        slow.follow(step)
    return copy.weight.item()


def test_a_fixed_decay_is_reached_from_below():
    recipe = Recipe(ema=0.99)
    assert [decay_at(recipe, step) for step in (0, 1, 10)] == pytest.approx([0.1, 2 / 11, 11 / 20])
    assert decay_at(recipe, 10_000) == 0.99


def test_a_half_life_halves_what_was_there():
    recipe = Recipe(batch=10, ema_half_life=1000.0, ema_ramp=0.0)
    assert follow(recipe, [1.0] * 100) == pytest.approx(0.5)
    ramped = Recipe(batch=10, ema_half_life=1e9, ema_ramp=0.05)
    assert decay_at(ramped, 99) == pytest.approx(0.5 ** (10 / (0.05 * 1000)))


def test_the_power_function_average_weighs_by_the_power_of_the_step():
    recipe, values = (
        Recipe(ema_power=6.94),
        [float(v) for v in torch.rand(400, generator=torch.Generator().manual_seed(0))],
    )
    k = torch.arange(1, 401, dtype=torch.float64)
    ends = (k / 400) ** 7.94
    exact = ends - torch.cat(
        [torch.zeros(1, dtype=torch.float64), ends[:-1]]
    )  # the weight t^p, integrated over each step
    assert decay_at(recipe, 0) == 0.0
    assert follow(recipe, values) == pytest.approx(
        float(exact @ torch.tensor(values, dtype=torch.float64)), abs=1e-12
    )


def test_whole_numbers_are_copied_not_averaged():
    source, copy = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    source.num_batches_tracked.fill_(7)
    source.running_mean.fill_(1.0)
    EMA(copy, source, 0.75).follow(0)
    assert int(copy.num_batches_tracked) == 7 and torch.equal(copy.running_mean, torch.full((2,), 0.25))
