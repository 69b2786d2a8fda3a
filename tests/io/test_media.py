import logging

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.io.media import contact_sheet, pictures_of, read_clip, save_clips


def bar(frames=6, clips=2, colours=3, side=17):
    """A white bar that moves a column a frame."""
    x = -torch.ones(clips, frames, colours, side, side)
    for f in range(frames):
        x[:, f, :, :, f] = 1.0
    return x


def shown(x):
    return torch.from_numpy(pictures_of(x)).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize(
    "ending,fps", [(".gif", 10.0), (".gif", 12.0), (".gif", 24.0), (".mp4", 8.0), (".mp4", 29.97)]
)
def test_a_film_comes_back_with_its_frames_and_its_rate(tmp_path, ending, fps):
    if ending == ".mp4":
        pytest.importorskip("av")
    x = bar()
    clip, rate = read_clip(save_clips(tmp_path / f"film{ending}", x, fps=fps))
    true = shown(x)
    assert len(clip) == 6 and rate == pytest.approx(fps, rel=0.03)
    assert float((clip[..., : true.shape[-2], : true.shape[-1]] - true).abs().mean()) < 0.05


def test_grey_clips_and_pictures_that_stand_still(tmp_path):
    still = bar(frames=1, colours=1).expand(-1, 5, -1, -1, -1)
    clip, rate = read_clip(save_clips(tmp_path / "still.gif", still, fps=5))
    assert clip.shape[0] == 1 or clip.shape[0] == 5
    assert rate == pytest.approx(5, rel=0.01) or clip.shape[0] == 1


def test_an_mp4_of_odd_sides_is_padded_and_says_so(tmp_path, caplog):
    pytest.importorskip("av")
    x = bar(clips=1, side=64)  # one pixel of border on either side of 64, and another column to be even
    with caplog.at_level(logging.WARNING, "stillhouse"):
        clip, _ = read_clip(
            save_clips(tmp_path / "film.mp4", torch.cat([x, x[..., :-1].new_full((1, 6, 3, 64, 1), -1)], 4))
        )
    assert clip.shape[-1] % 2 == 0 and "padded" in caplog.text


def test_a_contact_sheet_has_a_row_a_clip(tmp_path):
    sheet = contact_sheet(bar(frames=24, clips=3, side=64), most=8)
    assert sheet.shape == (3 * 65 + 1, 8 * 65 + 1, 3)
    assert save_clips(tmp_path / "sheet.png", bar()).stat().st_size > 100


def test_every_third_frame_of_a_film(tmp_path):
    path = save_clips(tmp_path / "film.gif", bar(), fps=30)
    clip, rate = read_clip(path, fps=10)
    assert len(clip) == 2 and rate == pytest.approx(10, rel=0.03)
    with pytest.raises(StillhouseError, match="does not divide"):
        read_clip(path, fps=11)


@pytest.mark.parametrize(
    "name,clips,fps,sentence",
    [
        ("a.gif", torch.zeros(2, 0, 3, 8, 8), 8.0, "one frame or more"),
        ("a.mp4", torch.zeros(2, 0, 3, 8, 8), 8.0, "one frame or more"),
        ("a.png", torch.zeros(2, 0, 3, 8, 8), 8.0, "contact sheet"),
        ("a.gif", torch.zeros(2, 4, 2, 8, 8), 8.0, "1 or 3 colours"),
        ("a.gif", torch.zeros(2, 3, 8, 8), 8.0, "clips"),
        ("a.avi", bar(), 8.0, r"\.avi"),
        ("a.gif", bar(), 0.0, "positive number of frames"),
        ("a.gif", bar(), float("nan"), "positive number of frames"),
        ("a.gif", bar(), 60.0, "at most 50"),
    ],
)
def test_bad_films_are_refused_in_one_sentence_and_leave_nothing(tmp_path, name, clips, fps, sentence):
    with pytest.raises(StillhouseError, match=sentence) as caught:
        save_clips(tmp_path / name, clips, fps=fps)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_no_film_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match="There is no film"):
        read_clip(tmp_path / "none.gif")
    for name in ("torn.gif", "torn.mp4"):
        (tmp_path / name).write_bytes(b"not a film at all")
        with pytest.raises(StillhouseError, match="no whole film"):
            read_clip(tmp_path / name)


def test_an_mp4_without_its_package_names_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(StillhouseError, match=r"stillhouse\[video\]"):
        save_clips(tmp_path / "a.mp4", bar())
    assert not list(tmp_path.iterdir())
