"""The balance of two losses, by gradients that are known."""

import pytest
import torch
from torch import nn

from stillhouse.parts.gaps.adaptive_weight import adaptive_weight, last_weight


def ratio(main: float, other: float, **bounds: float) -> torch.Tensor:
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))  # a gradient of ones has the norm 2
    return adaptive_weight(main * weight.sum(), other * weight.sum(), weight, **bounds)


def test_the_ratio_of_gradients_and_its_bounds() -> None:
    assert float(ratio(3.0, -1.5)) == pytest.approx(6 / (3 + 1e-4), rel=1e-12)
    assert float(ratio(3.0, 0.0)) == 1e4 and float(ratio(3.0, 0.0, high=50.0)) == 50
    assert float(ratio(3.0, 1e-3)) == pytest.approx(6 / 2.1e-3, rel=1e-12)
    assert float(ratio(0.0, 1.0)) == 0 and float(ratio(0.5, 1.0, low=0.75)) == 0.75
    assert not ratio(3.0, 1.0).requires_grad


def test_both_graphs_can_be_gone_through_again() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    main, other = weight.square().sum(), weight.pow(3).sum()
    made = adaptive_weight(main, other, weight)
    (main + made * other).backward()
    assert not made.requires_grad
    torch.testing.assert_close(weight.grad, torch.full((2, 2), 2 + 3 * 4 / (6 + 1e-4)))


def test_the_last_matrix_is_found_before_the_last_bias() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.LayerNorm(4))
    assert last_weight(net) is net[1].weight
