import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.parts.states.segments import halvings, parted, segment_pair


@pytest.mark.parametrize("segments", [1, 2, 4, 8])
def test_pairs_are_neighbours_inside_one_segment(segments):
    t, u, b = segment_pair(40, segments, Draws(4000, "pairs"))
    assert torch.allclose(t - u, torch.full_like(t, 1 / 40), atol=1e-6)
    assert torch.allclose(b, (u * segments + 1e-4).floor() / segments)
    assert (b <= u).all() and (t <= b + 1 / segments + 1e-6).all()
    assert len(t.unique()) == 40 and len(b.unique()) == segments  # every step of the grid, every segment


def test_the_upper_point_on_a_boundary_belongs_to_the_segment_below():
    t, u, b = segment_pair(8, 4, Draws(2000, "edge"))
    on_edge = t == 0.5
    assert on_edge.any() and (b[on_edge] == 0.25).all() and (b[u == 0.5] == 0.5).all()


def test_halvings_and_parts():
    assert halvings(8, 1) == [8, 4, 2, 1] and halvings(4, 4) == [4]
    assert parted(10, [1.0, 1.0, 1.0]) == [3, 4, 3] and parted(100, [0.3, 0.2, 0.5]) == [30, 20, 50]
    assert sum(parted(997, [0.1] * 7)) == 997
