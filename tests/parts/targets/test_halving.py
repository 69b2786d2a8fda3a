"""The target of one step for two, its weight, and the ladder of stages."""

import math

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Cosine, Flow
from stillhouse.parts.targets.halving import clean_weight, halving_lengths, halving_target, ladder
from tests.parts.affine import affine, f64

X_T = f64([[1.0, -2.0], [0.5, 3.0]])
T, MIDDLE, S = f64([0.9, 0.5]), f64([0.6, 0.4]), f64([0.2, 0.3])
COND = f64([0.9, -0.4])


@pytest.mark.parametrize("last", [S, f64([0.0, 0.0])])
def test_one_step_of_the_target_lands_where_two_of_the_teacher_do(last: torch.Tensor) -> None:
    """Salimans & Ho's own form, with the steps written out."""

    def step(x, t, s):
        t, s = t[:, None], s[:, None]
        clean = 0.5 * x + 2 * t + COND[:, None]
        return (1 - s) * clean + s * (x - (1 - t) * clean) / t

    landed = step(step(X_T, T, MIDDLE), MIDDLE, last)
    ratio = (last / T)[:, None]
    expected = (landed - ratio * X_T) / ((1 - last)[:, None] - ratio * (1 - T)[:, None])
    made = halving_target(affine(0.5, 2.0), X_T, T, MIDDLE, last, COND)
    torch.testing.assert_close(made, expected)
    if not last.any():
        torch.testing.assert_close(made, landed)


def test_the_teacher_of_both_steps_is_given_the_scale() -> None:
    seen = []

    class Scaled(torch.nn.Module):
        def forward(self, x, t, cond=None, guidance=None):
            seen.append(guidance)
            return x

    teacher, w = affine(0.0, 0.0), f64([2.0, 3.0])
    teacher.net = Scaled()
    halving_target(teacher, X_T, T, MIDDLE, S, guidance=w)
    assert len(seen) == 2 and all(torch.equal(one, w) for one in seen)


def test_weights_of_a_clean_estimate() -> None:
    t = f64([0.5, 0.8, 0.2, 1e-9])
    snr = [1, (0.2 / 0.8) ** 2, (0.8 / 0.2) ** 2, math.exp(6)]
    assert clean_weight(Flow(), t).tolist() == pytest.approx([1, 1, 16, math.exp(6)])
    assert clean_weight(Flow(), t, "truncated_snr").tolist() == pytest.approx([1, 1, 16, math.exp(6)])
    assert clean_weight(Flow(), t, "snr_plus_one").tolist() == pytest.approx([1 + v for v in snr])
    assert clean_weight(Flow(), t, "one").tolist() == [1, 1, 1, 1]
    high = clean_weight(Cosine(), f64([0.25]), "snr_plus_one")
    assert float(high) == pytest.approx(1 + 1 / math.tan(math.pi / 8) ** 2, rel=1e-3)


def test_a_ladder_halves_from_the_first_to_the_last() -> None:
    assert ladder(8, 1) == [4, 2, 1] and ladder(6, 3) == [3] and ladder(12, 3) == [6, 3]
    for first, last in ((6, 1), (4, 4), (4, 8), (9, 4), (5, 2)):
        with pytest.raises(StillhouseError, match=f"from {first} steps to {last} only"):
            ladder(first, last)


def test_the_last_halvings_get_double() -> None:
    assert halving_lengths(700, [8, 4, 2, 1]) == [116, 116, 233, 235]
    assert halving_lengths(60, [4, 2, 1]) == [12, 24, 24] and halving_lengths(10, [3, 2]) == [3, 7]
    assert halving_lengths(3, [4, 2, 1]) == [1, 1, 1]
    with pytest.raises(StillhouseError, match="2 iterations are too few for 3 halvings"):
        halving_lengths(2, [4, 2, 1])
