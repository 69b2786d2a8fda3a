"""A perceptual distance of one's own: a module or a function."""

import pytest
import torch
from torch import nn

from stillhouse.core.errors import StillhouseError
from stillhouse.parts.gaps.perceptual import Perceptual, find_perceptual
from tests.parts.affine import f64

A, B = f64([[1.0, -2.0], [0.5, 3.0]]), f64([[0.0, 1.0], [0.5, 1.0]])


class Weighed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.drop = nn.Parameter(f64([2.0, 3.0])), nn.Dropout(0.5)
        self.moved = []

    def to(self, *where):
        self.moved.append(where)
        return super().to(*where)

    def forward(self, a, b):
        return self.drop((a - b).abs() * self.weight).sum(1)


def test_a_module_is_frozen_and_goes_where_the_samples_are() -> None:
    module, a = Weighed(), A.clone().requires_grad_()
    distance = find_perceptual(module)
    made = distance(a, B)
    torch.testing.assert_close(made, f64([2 + 9, 6.0]))  # no dropout
    assert not module.training and not module.weight.requires_grad and module.moved == [(a.device,)]
    torch.testing.assert_close(torch.autograd.grad(made.sum(), a)[0], f64([[2.0, -3.0], [0.0, 3.0]]))


def test_a_function_is_called_as_it_is() -> None:
    made = Perceptual(lambda a, b: (a - b).sum(1))(A, B)
    torch.testing.assert_close(made, f64([-2.0, 2.0]))
    with pytest.raises(StillhouseError):
        Perceptual(lambda a, b: (a - b).sum())(A, B)  # one number for all
