"""``stillhouse sample`` on models that are told a camera."""

import numpy as np
import pytest
import torch
from PIL import Image

import stillhouse
from stillhouse.cli import main
from stillhouse.io.media import read_clip
from stillhouse.io.ply import read_ply
from stillhouse.models.scenes import Gaussians, Points

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    quick = {"iterations": 3, "batch": 4, "ema": 0.0, "quiet": True}
    stillhouse.distill("exact", "cfd", world="objects", size=12, scenes=2, out=folder / "two", **quick)
    stillhouse.distill(
        "exact",
        "cfd",
        world={"name": "objects", "kind": "cube"},
        scene="points",
        size=1,
        out=folder / "point",
        **quick,
    )
    network = {"channels": [8, 16], "patch": 2}
    stillhouse.train_teacher(
        "objects",
        network,
        iterations=1,
        batch=2,
        label_dropout=0.0,
        steps=2,
        out=folder / "teacher",
        quiet=True,
    )
    return folder


def say(capsys, *words):
    code = main(["sample", *map(str, words)])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_a_turn_table_goes_once_around(runs, tmp_path, capsys):
    code, pred = say(capsys, runs / "two", "-n", 8, "--out", tmp_path / "turn.gif")
    film, _ = read_clip(tmp_path / "turn.gif")
    assert code == 0 and "8 views" in pred and len(film) == 8 and not torch.equal(film[0], film[4])


def test_the_scene_itself_is_written(runs, tmp_path, capsys):
    assert say(capsys, runs / "two", "--scene", 1, "--out", tmp_path / "scene.ply")[0] == 0
    mine = stillhouse.load(runs / "two" / "model").denoiser.net
    found = read_ply(tmp_path / "scene.ply")
    assert isinstance(found, Gaussians)
    torch.testing.assert_close(found.centre[0], mine.centre[1].detach())
    assert say(capsys, runs / "point", "--out", tmp_path / "point.ply")[0] == 0
    assert isinstance(read_ply(tmp_path / "point.ply"), Points)


def test_views_side_by_side_of_objects_and_of_a_teacher(runs, tmp_path, capsys):
    assert say(capsys, runs / "two", "--out", tmp_path / "views.png")[0] == 0
    assert say(capsys, runs / "two", "--scene", 1, "--out", tmp_path / "other.png")[0] == 0
    views, other = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("views", "other"))
    assert views.shape == (3 * 17 + 1, 4 * 17 + 1, 3) and (views != other).any()
    assert say(capsys, runs / "teacher", "-n", 3, "--out", tmp_path / "teacher.npy")[0] == 0
    assert np.load(tmp_path / "teacher.npy").shape == (3, 3, 16, 16)
    assert say(capsys, runs / "point", "-n", 5, "--out", tmp_path / "point.npy")[0] == 0
    assert np.load(tmp_path / "point.npy").shape == (5, 2)


@pytest.mark.parametrize(
    "run,words,sentence",
    [
        ("two", ["--scene", "2", "--out", "a.gif"], "0 … 1, not 2"),
        ("teacher", ["--out", "a.ply"], "holds no object"),
        ("teacher", ["--scene", "0"], "a view at a time"),
        ("point", ["--out", "a.gif"], "Only pictures"),
    ],
)
def test_what_cannot_be_is_said(run, words, sentence, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, pred = say(capsys, runs / run, *words)
    assert code == 2 and sentence in pred and not list(tmp_path.iterdir())


def test_other_models_hold_no_objects(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, pred = say(capsys, "mixture", "--scene", "0")
    assert code == 2 and "score-3d" in pred
