import math

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.video import change, clip_distance, drift, flicker, frame_distances, motion, nearest


def clips(n=3, frames=5, seed=0):
    return torch.randn(n, frames, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_row_is_found_with_its_squared_distance():
    rows, bank = (
        torch.randn(50, 7, generator=torch.Generator().manual_seed(0)),
        torch.randn(30, 7, generator=torch.Generator().manual_seed(1)),
    )
    distance, which = nearest(rows, bank)
    exact = torch.cdist(rows.double(), bank.double()) ** 2
    assert torch.equal(which, exact.argmin(1))
    torch.testing.assert_close(distance.double(), exact.amin(1), rtol=1e-4, atol=1e-5)


def test_distances_of_frames_and_clips_by_hand():
    bank = clips()
    assert frame_distances(bank, bank.flatten(0, 1)).tolist() == pytest.approx([0] * 5, abs=1e-4)
    moved = bank.clone()
    moved[:, 3] += 0.01  # 32 numbers a frame, each 0.01 off
    expected = [0.0, 0.0, 0.0, 32e-4, 0.0]
    assert frame_distances(moved, bank.flatten(0, 1)).tolist() == pytest.approx(expected, abs=1e-4)
    assert clip_distance(moved, bank) == pytest.approx(32e-4, abs=1e-4)
    longer = torch.cat([moved, clips(seed=5)], 1)
    assert clip_distance(longer, bank) == pytest.approx(
        32e-4, abs=1e-4
    )  # of a longer clip the beginning counts


def test_frames_in_the_wrong_order_are_good_frames_of_a_bad_clip():
    bank = clips()
    shuffled = bank[:, torch.tensor([4, 3, 2, 1, 0])]
    assert float(frame_distances(shuffled, bank.flatten(0, 1)).max()) < 1e-4
    assert clip_distance(shuffled, bank) > 1.0


def test_drift_is_a_ratio_of_means_over_windows():
    curve = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    assert drift(curve, 4, 8) == pytest.approx(3.0)
    assert drift(curve, 2, 8, width=2) == pytest.approx(4.0)
    with pytest.raises(StillhouseError, match="the clip has 8"):
        drift(curve, 4, 9)


def test_flicker_is_blind_to_constant_speed_and_sees_jumps():
    steady = torch.arange(6.0)[None, :, None, None, None].expand(2, 6, 1, 3, 3)
    assert flicker(steady) == pytest.approx(0) and change(steady) == pytest.approx(1)
    jumping = torch.tensor([0.0, 1.0] * 3)[None, :, None, None, None].expand(2, 6, 1, 3, 3)
    assert flicker(jumping) == pytest.approx(2) and change(jumping) == pytest.approx(1)


def test_motion_is_read_across_the_border_of_the_torus():
    mass = torch.zeros(1, 4, 8, 16)
    for f in range(4):
        mass[0, f, (6 + f) % 8, (14 + 3 * f) % 16] = 2.0
    centre, step = motion(mass)
    torch.testing.assert_close(centre[0, 0].float(), torch.tensor([14.0, 6.0]))
    torch.testing.assert_close(step[0].float(), torch.tensor([[3.0, 1.0]] * 3))


def test_a_centre_lies_between_pixels():
    mass = torch.zeros(1, 1, 8, 8)
    mass[0, 0, 2, 3] = mass[0, 0, 2, 4] = 1.0
    centre, _ = motion(mass)
    assert centre[0, 0].tolist() == pytest.approx([3.5, 2.0]) and math.isfinite(float(centre.sum()))


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 3, 4, 4), torch.zeros(0, 5, 2, 4, 4), torch.zeros(2, 0, 2, 4, 4)]
)
def test_what_are_no_clips_is_refused(bad):
    with pytest.raises(StillhouseError):
        frame_distances(bad, clips().flatten(0, 1))


def test_frames_of_another_size_are_refused():
    with pytest.raises(StillhouseError, match="can't be compared"):
        clip_distance(torch.zeros(2, 5, 2, 8, 8), clips())
