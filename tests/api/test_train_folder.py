"""``stillhouse train`` on a folder of pictures: a teacher of one's own, without a world."""

from __future__ import annotations

import torch
from PIL import Image
from sklearn.datasets import load_digits

import stillhouse
from stillhouse.cli import main

SMALL = ["--iterations", "3", "--batch", "4", "--quiet", "--steps", "2"]


def digits(folder, n: int = 24, size: int = 8):
    """``n`` digits in folders by class, 0 to 9."""
    held = load_digits()
    for i in range(n):
        place = folder / str(held.target[i])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((held.images[i] * 15.9).astype("uint8")).resize((size, size)).save(place / f"{i}.png")
    return folder


def test_a_folder_becomes_a_teacher_that_is_sampled_and_distilled(tmp_path, capsys):
    data, run = digits(tmp_path / "digits"), tmp_path / "run"
    assert main(["train", "denoising", "--data", str(data), *SMALL, "--out", str(run)]) == 0
    teacher = stillhouse.load(run / "model")
    assert teacher.shape == (3, 8, 8) and teacher.classes == 10 and teacher.world == ""
    assert teacher.sample(2, seed=0).shape == (2, 3, 8, 8)
    assert main(["sample", str(run), "-n", "2", "--out", str(tmp_path / "a.png")]) == 0
    assert Image.open(tmp_path / "a.png").size[0] >= 8
    student = stillhouse.distill(run, "dmd2", gan_weight=0.0, iterations=2, batch=4, quiet=True)
    assert student.shape == (3, 8, 8)
    capsys.readouterr()


def test_python_and_the_command_line_train_the_same_weights(tmp_path):
    data = digits(tmp_path / "digits")
    model = stillhouse.train_model("denoising", data=data, steps=2, iterations=3, batch=4, quiet=True)
    assert main(["train", "--data", str(data), *SMALL, "--out", str(tmp_path / "run")]) == 0
    other = stillhouse.load(tmp_path / "run" / "model")
    for a, b in zip(model.denoiser.parameters(), other.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_folder_without_pictures_is_one_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["train", "--data", str(tmp_path / "empty"), *SMALL, "--out", str(tmp_path / "run")]) == 2
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
