"""Pictures become numbers: upright, on white, cut about the centre; and the sizes they are sorted into."""

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.core.errors import StillhouseError
from stillhouse.io.data import buckets, nearest, to_tensor
from stillhouse.io.data.prepare import upright


def test_values_and_channels():
    image = Image.new("RGB", (8, 8), (255, 0, 51))
    assert torch.allclose(to_tensor(image, (4, 6))[:, 0, 0], torch.tensor([1.0, -1.0, -0.6])) and to_tensor(
        image, (4, 6)
    ).shape == (
        3,
        4,
        6,
    )
    grey = to_tensor(image, (4, 6), channels=1)
    assert (
        grey.shape == (1, 4, 6)
        and grey.dtype == torch.float32
        and float(grey[0, 0, 0]) == pytest.approx(2 * 82 / 255 - 1)
    )
    with pytest.raises(StillhouseError, match="1 or 3 channels, not 4"):
        to_tensor(image, (4, 4), channels=4)


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert float(to_tensor(image, (4, 4)).min()) == 1
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 51))
    assert float(to_tensor(half, (4, 4)).max()) == pytest.approx(0.6, abs=0.01)
    coded = Image.new("P", (4, 4), 0)
    coded.putpalette([0, 0, 0] * 256)
    coded.info["transparency"] = 0
    assert float(to_tensor(coded, (4, 4)).min()) == 1


def test_sixteen_bits_and_other_modes():
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert float(to_tensor(deep, (4, 4)).mean()) == pytest.approx(128 / 127.5 - 1, abs=1e-6)
    for mode in ("1", "L", "LA", "CMYK", "YCbCr"):
        assert torch.isfinite(to_tensor(Image.new(mode, (5, 7)), (4, 4))).all()


def test_the_camera_is_turned_and_the_centre_kept(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert float(to_tensor(Image.fromarray(wide), (10, 10)).min()) == 1  # the sides are cut
    top = np.zeros((10, 20, 3), np.uint8)
    top[:, :10] = 255  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: its left is the top
    Image.fromarray(top).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert upright(turned) == (20, 10)
    x = to_tensor(turned, (20, 10))
    assert float(x[:, :8].min()) == 1 and float(x[:, 12:].max()) == -1


def test_buckets_have_one_area_and_many_shapes():
    sizes = buckets((512, 512), 64, 9)
    assert (512, 512) in sizes and len(sizes) == len(set(sizes)) >= 5
    assert all(h % 64 == 0 and w % 64 == 0 and abs(h * w / 512**2 - 1) < 0.15 for h, w in sizes)
    assert sizes == sorted(sizes, key=lambda s: s[1] / s[0]) and {(w, h) for h, w in sizes} == set(sizes)
    assert buckets((512, 768), 64, 1) == [(512, 768)]
    assert nearest((300, 900), sizes) == sizes[-1] and nearest((1000, 1010), sizes) == (512, 512)
    with pytest.raises(StillhouseError, match="512 x 500 is no multiple of 64"):
        buckets((512, 500), 64, 3)
