"""Distances of a sample, by hand."""

import math

import pytest
import torch

from stillhouse.parts.gaps.distances import (
    DISTANCES,
    LATENT_DISTANCES,
    absolute,
    elementwise_huber,
    pseudo_huber,
    squared,
)
from tests.parts.affine import f64

A = f64([[[4.0, 1.0]], [[2.0, 2.0]], [[7e-4, 1.0]]])
B = f64([[[1.0, 5.0]], [[2.0, 1.0]], [[4e-4, 0.9996]]])  # gaps (3, -4), (0, 1) and (3e-4, 4e-4)


def test_each_distance_is_its_formula() -> None:
    c = 0.00054 * math.sqrt(2)
    expected = {
        squared: [12.5, 0.5, 12.5e-8],
        absolute: [3.5, 0.5, 3.5e-4],
        pseudo_huber: [math.hypot(5, c) - c, math.hypot(1, c) - c, math.hypot(5e-4, c) - c],
        elementwise_huber: [
            (math.hypot(one, 1e-3) + math.hypot(other, 1e-3)) / 2 - 1e-3
            for one, other in ((3, 4), (0, 1), (3e-4, 4e-4))
        ],
    }
    for distance, values in expected.items():
        torch.testing.assert_close(distance(A, B), f64(values), rtol=1e-9, atol=0)
        torch.testing.assert_close(distance(B, A), f64(values), rtol=1e-9, atol=0)


def test_the_width_of_the_elements_huber() -> None:
    wide = [(math.hypot(3, 2) + math.hypot(4, 2)) / 2 - 2, (2 + math.hypot(1, 2)) / 2 - 2]
    torch.testing.assert_close(elementwise_huber(A[:2], B[:2], 2.0), f64(wide))


@pytest.mark.parametrize("distance", [squared, absolute, pseudo_huber, elementwise_huber])
def test_equal_samples_have_no_distance_and_no_gradient(distance) -> None:
    a = A.clone().requires_grad_()
    distance(a, A).sum().backward()
    assert not distance(A, A).any() and not a.grad.any()


def test_the_names_of_options() -> None:
    assert DISTANCES == {"l2": squared, "huber": pseudo_huber, "l1": absolute}
    assert LATENT_DISTANCES == {"huber": elementwise_huber, "l2": squared}
