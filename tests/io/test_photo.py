import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.core.errors import StillhouseError
from stillhouse.io import photo as module
from stillhouse.io.photo import Photo, read_photo, write_photo


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_colour_grey_and_alpha_come_back_to_the_bit(tmp_path):
    for mode, shape in (("RGB", (12, 9, 3)), ("RGBA", (12, 9, 4)), ("L", (12, 9)), ("LA", (12, 9, 2))):
        given = pixels(*shape)
        Image.fromarray(given, mode).save(tmp_path / "in.png")
        photo = read_photo(tmp_path / "in.png")
        assert (
            photo.colour.shape == (3, 12, 9)
            and photo.grey == (mode[0] == "L")
            and (photo.alpha is not None) == ("A" in mode)
        )
        again = Image.open(write_photo(tmp_path / f"{mode}.png", photo))
        assert again.mode == mode and np.array_equal(np.array(again), given)


def test_exif_turns_the_picture(tmp_path):
    given = pixels(16, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(given).save(tmp_path / "in.png", exif=exif)
    photo = read_photo(tmp_path / "in.png")
    assert photo.colour.shape == (3, 24, 16)
    assert torch.allclose(photo.colour[0], torch.from_numpy(np.rot90(given, -1).copy()).float() / 127.5 - 1)


def test_palettes_deep_and_moving_pictures(tmp_path):
    deep = (np.arange(12 * 12).reshape(12, 12) * 455).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    photo = read_photo(tmp_path / "deep.png")
    assert photo.grey and torch.allclose(
        photo.colour[2], torch.from_numpy(deep / 65535 * 2 - 1).float(), atol=1e-6
    )
    for top in (1.0, 255.0):
        light = np.linspace(0, top, 144, dtype=np.float32).reshape(12, 12)
        Image.fromarray(light).save(tmp_path / "floats.tif")
        colour = read_photo(tmp_path / "floats.tif").colour
        assert torch.allclose(colour[0], torch.from_numpy(2 * light / top - 1), atol=1e-5)
    Image.fromarray(np.arange(144, dtype=np.int32).reshape(12, 12)).save(tmp_path / "wide.tif")
    assert float(read_photo(tmp_path / "wide.tif").colour.max()) == pytest.approx(2 * 143 / 255 - 1)
    frames = [Image.fromarray(pixels(12, 12, 3)).quantize(8) for _ in range(2)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_photo(tmp_path / "moving.gif").colour.shape == (3, 12, 12)
    clear = Image.fromarray(pixels(12, 12)).convert("P")
    clear.save(tmp_path / "clear.png", transparency=0)
    assert read_photo(tmp_path / "clear.png").alpha is not None


def test_what_can_not_be_read_gets_one_sentence(tmp_path, monkeypatch):
    good = tmp_path / "good.png"
    Image.fromarray(pixels(64, 64, 3)).save(good)
    Image.fromarray(pixels(4, 64, 3)).save(tmp_path / "thin.png")
    (tmp_path / "torn.png").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, sentence in (
        ("missing.png", "There is no picture"),
        ("torn.png", "is damaged"),
        ("text.jpg", "no picture that can be read"),
        ("empty.png", "no picture that can be read"),
        ("thin.png", "64 x 4 pixels; a picture to restore has 8 a side or more"),
    ):
        with pytest.raises(StillhouseError, match=sentence) as error:
            read_photo(tmp_path / name)
        assert "\n" not in str(error.value)
    monkeypatch.setattr(module, "MOST", 64 * 64 * 4)
    assert read_photo(good, 2).colour.shape == (3, 64, 64)
    with pytest.raises(StillhouseError, match="64 x 64 pixels; 3 times as large"):
        read_photo(good, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(StillhouseError, match="too large"):
        read_photo(good)


def test_a_jpeg_holds_no_alpha_and_nothing_half_is_written(tmp_path):
    photo = Photo(torch.zeros(3, 8, 8), torch.zeros(1, 8, 8))
    for name, sentence in (("out.jpg", "a JPEG can't hold"), ("out.tga", "written as .png")):
        with pytest.raises(StillhouseError, match=sentence):
            write_photo(tmp_path / name, photo)
        assert not (tmp_path / name).exists()
    assert write_photo(tmp_path / "out", photo).name == "out.png"
