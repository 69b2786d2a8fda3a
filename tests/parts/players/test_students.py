"""Students made from a teacher's network."""

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.parts.players.students import shrunk

NETS = {
    "mlp": ({"width": 32, "depth": 4}, (2,)),
    "unet": ({"image_channels": 3, "channels": (16, 32)}, (3, 8, 8)),
    "dit": ({"image_channels": 3, "dim": 48, "depth": 2, "heads": 3, "patch": 2}, (3, 8, 8)),
    "temporal": ({"channels": (16, 32)}, (8, 2)),
    "video_dit": ({"dim": 32, "depth": 2, "heads": 2}, (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_smaller_network_has_the_inputs_of_the_larger_one(name):
    config, shape = NETS[name]
    teacher = Denoiser(build_model({"name": name, "two_time": True, **config}), Flow(), two_time=True)
    small, t = shrunk(teacher, 0.5), torch.full((3,), 0.5)
    few, many = (sum(p.numel() for p in net.parameters()) for net in (small, teacher))
    assert few < 0.6 * many
    assert small(torch.randn(3, *shape), t, None, s=t / 2).x0.shape == (3, *shape)
    teacher.empty = torch.zeros(1)
    assert small.two_time and shrunk(teacher, 0.5).empty is teacher.empty


def test_a_scene_has_no_widths():
    with pytest.raises(StillhouseError, match="'voxels' can't be made smaller"):
        shrunk(Denoiser(build_model({"name": "voxels"}), Flow(), "x0"), 0.5)
