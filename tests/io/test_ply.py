import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from stillhouse.core.errors import StillhouseError
from stillhouse.io.ply import read_ply, write_ply
from stillhouse.models.scenes import Gaussians, Plain, Points, Voxels

torch.set_num_threads(1)
PLACE = torch.tensor([[3.0, 1.0, 1.0]])


def test_gaussians_come_back_as_they_went(tmp_path):
    net = Gaussians(2, 9)
    path = write_ply(tmp_path / "scene.ply", net, 1)
    again = read_ply(path)
    assert isinstance(again, Gaussians) and again.config["count"] == 9
    there, here = net.render(torch.tensor([1]), PLACE, 12), again.render(torch.tensor([0]), PLACE, 12)
    torch.testing.assert_close(here.rgb, there.rgb, atol=1e-4, rtol=0)
    torch.testing.assert_close(here.depth, there.depth, atol=1e-3, rtol=0)


def test_viewers_find_the_columns_they_look_for(tmp_path):
    net = Gaussians(1, 4)
    with torch.no_grad():
        net.colour[0, 0] = 0.0
        net.turn.mul_(3.0)
    data = PlyData.read(str(write_ply(tmp_path / "scene.ply", net)))["vertex"].data
    names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
    assert list(data.dtype.names) == names and all(data.dtype[n] == np.float32 for n in names)
    assert data["f_dc_0"][0] == pytest.approx(0.0, abs=1e-6)  # middle grey
    assert data["x"][2] == pytest.approx(net.centre[0, 2, 0].item())
    assert data["scale_1"][3] == pytest.approx(net.size[0, 3, 1].item())
    assert sum(data[f"rot_{i}"][1] ** 2 for i in range(4)) == pytest.approx(1.0)


def test_voxels_are_written_as_coloured_points_where_they_hold_something(tmp_path):
    net = Voxels(edge=5, reach=2.0)
    with torch.no_grad():
        net.density.fill_(-9)
        net.density[0, 0, 4, 2, 0] = 9
        net.colour[0, :, 4, 2, 0] = torch.tensor([9.0, -9.0, 0.0])
    data = PlyData.read(str(write_ply(tmp_path / "voxels.ply", net)))["vertex"].data
    assert len(data) == 1 and [data[n][0] for n in "xyz"] == [2, 0, -2]
    assert [int(data[n][0]) for n in ("red", "green", "blue")] == [255, 0, 128]
    assert torch.equal(read_ply(tmp_path / "voxels.ply").centre, torch.tensor([[[2.0, 0.0, -2.0]]]))


def test_points_come_back(tmp_path):
    net = Points(1, 3)
    with torch.no_grad():
        net.centre.normal_(generator=torch.Generator().manual_seed(0))
    again = read_ply(write_ply(tmp_path / "points.ply", net))
    assert isinstance(again, Points) and torch.equal(again.centre, net.centre)


def test_what_is_wrong_is_said_in_one_sentence(tmp_path):
    empty = Voxels(edge=3)
    with torch.no_grad():
        empty.density.fill_(-9)
    for scene, number, name, words in (
        (Points(2), 2, "a.ply", "0 … 1, not 2"),
        (Points(), 0, "a.obj", "not '.obj'"),
        (Plain(), 0, "a.ply", "no place"),
        (empty, 0, "a.ply", "empty"),
    ):
        with pytest.raises(StillhouseError, match=words):
            write_ply(tmp_path / name, scene, number)
    assert not list(tmp_path.iterdir())


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(StillhouseError, match="no scene"):
        read_ply(tmp_path / "none.ply")
    whole = write_ply(tmp_path / "scene.ply", Gaussians(1, 40)).read_bytes()
    (tmp_path / "torn.ply").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ply").write_text("hello\n")
    for name in ("torn.ply", "text.ply"):
        with pytest.raises(StillhouseError, match="no whole"):
            read_ply(tmp_path / name)
    table = np.zeros(2, dtype=[("x", "f4"), ("y", "f4")])
    PlyData([PlyElement.describe(table, "vertex")]).write(str(tmp_path / "flat.ply"))
    with pytest.raises(StillhouseError, match="lacks z"):
        read_ply(tmp_path / "flat.ply")
    table = np.zeros(2, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    table["z"][1] = np.nan
    PlyData([PlyElement.describe(table, "vertex")]).write(str(tmp_path / "nan.ply"))
    with pytest.raises(StillhouseError, match="not finite"):
        read_ply(tmp_path / "nan.ply")
