"""The search for few steps, on a grid that is small enough to try every path."""

import itertools

import pytest
import torch

from stillhouse.core.schedules import VE, Cosine
from stillhouse.parts.states.schedule_search import Tables, median_path, search, straight_times, walk
from tests.parts.affine import f64

TIMES = f64([0.0, 0.1, 0.3, 0.6, 1.0])
Y = f64([[1.0, -0.5], [0.2, 2.0], [-1.0, 0.7]])


def slope(i, y):
    """A clean estimate that bends, and the noise that goes with it; at any time but 0."""
    t = float(TIMES[i])
    clean = torch.sin(2 * y) * (1 - 0.5 * t) + 0.1 * i
    return clean, (y - (1 - t) * clean) / t


def euler(y, path):
    for i, j in itertools.pairwise(path):
        clean, eps = slope(i, y)
        y = clean + float(TIMES[j]) * (eps - clean)
    return y


def test_a_walk_is_eulers() -> None:
    made = walk(slope, Y, TIMES, (4, 2, 0))
    assert len(made) == 3 and torch.equal(made[0], Y)
    torch.testing.assert_close(made[1], euler(Y, (4, 2)))
    torch.testing.assert_close(made[2], euler(Y, (4, 2, 0)))


def cost(path, power, row=None):
    away = (euler(Y, path) - euler(Y, (4, 3, 2, 1, 0))).abs() ** power
    return float((away if row is None else away[row]).mean())


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_one_and_two_steps_are_the_best_there_are(power: float) -> None:
    """Of two steps the first is the only one to its index, so that nothing is left out."""
    one = search(slope, Y, TIMES, 1, power=power)
    assert one.path(1) == (4, 0) and float(one.costs[0, 0]) == pytest.approx(cost((4, 0), power))
    two = search(slope, Y, TIMES, 2, power=power)
    paths = [(4, 0), (4, 3, 0), (4, 2, 0), (4, 1, 0)]
    best = min(paths, key=lambda path: cost(path, power))
    assert two.path(2) == best and float(two.costs[0, 0]) == pytest.approx(cost(best, power))
    torch.testing.assert_close(two.states[0], euler(Y, best))
    each = search(slope, Y, TIMES, 2, each=True, power=power)
    for row in range(3):
        best = min(paths, key=lambda path: cost(path, power, row))  # noqa: B023
        assert each.path(2, row) == best
        assert float(each.costs[0, row]) == pytest.approx(cost(best, power, row))
    assert torch.equal(search(slope, Y, TIMES, 2).costs, search(slope, Y, TIMES, 2, power=2.0).costs)


def test_without_an_anchor_the_noise_may_begin_anywhere() -> None:
    made = search(slope, Y, TIMES, 1, anchor=False)
    starts = {
        (i, 0): float((euler(Y, (i, 0)) - euler(Y, (4, 3, 2, 1, 0))).square().mean()) for i in range(1, 5)
    }
    best = min(starts, key=starts.__getitem__)
    assert made.path(1) == best and float(made.costs[0, 0]) == pytest.approx(starts[best])


def test_as_many_steps_as_the_grid_has_find_its_own_end() -> None:
    made = search(slope, Y, TIMES, 4, levels=range(4))
    assert float(made.costs[0, 0]) == pytest.approx(0, abs=1e-20) and made.path(4) == (4, 3, 2, 1, 0)
    assert len(search(slope, Y, TIMES, 4, levels=range(2)).before) == 2


def test_a_table_has_a_row_an_index():
    made = search(slope, Y, TIMES, 2, each=True)
    assert made.costs.shape == (5, 3) and made.states.shape == (5, 3, 2)
    assert [level.shape for level in made.before] == [(5, 3)] * 2


def test_a_path_is_read_back_level_by_level() -> None:
    none = torch.tensor([[-1], [-1], [-1]])
    before = [torch.tensor([[2], [2], [-1]]), none, torch.tensor([[1], [-1], [-1]])]
    tables = Tables(torch.zeros(3, 1, 1), torch.zeros(3, 1), before)
    assert tables.path(3) == (2, 1, 0) and tables.path(2) == (2, 0) and tables.path(1) == (2, 0)


def test_the_median_of_paths() -> None:
    assert median_path([(9, 5, 0), (9, 3, 0), (9, 4, 0)], 2) == (9, 4, 0)
    assert median_path([(9, 5, 0), (9, 2, 0)], 2) == (9, 3, 0)  # floored between the middle two
    assert median_path([(9, 8, 0), (9, 1, 0), (9, 6, 0), (9, 3, 0)], 2) == (9, 4, 0)
    assert median_path([(9, 0), (9, 5, 0)], 3) == (9, 7, 0)  # short ones begin with their first index again
    assert median_path([(7, 0)], 4) == (7, 0)


def test_times_of_the_straight_path() -> None:
    t = [0.1, 0.5, 1.0]
    expected = [80 * v**7 / (1 + 80 * v**7) for v in t]
    assert straight_times(VE(), t).tolist() == pytest.approx(expected, rel=1e-12)
    half = straight_times(Cosine(), [0.5])
    assert half.dtype == torch.float64 and float(half) == pytest.approx(0.5)
