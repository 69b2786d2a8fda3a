"""A policy on the command line: it is told what its world's demonstrators saw."""

import numpy as np
import pytest

from stillhouse.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_chunks_as_numbers_and_as_a_moving_picture(capsys):
    assert (
        main(["sample", "control", "-n", "3", "--steps", "2", "--labels", "5,9", "--out", "chunks.npy"]) == 0
    )
    assert "3 chunks of 8 actions in 2 step(s), 2 network call(s) each" in capsys.readouterr().out
    chunks = np.load("chunks.npy")
    assert chunks.shape == (3, 8, 2) and np.abs(chunks).max() < 1.5
    assert main(["sample", "control", "-n", "2", "--steps", "1", "--out", "chunks.gif"]) == 0
    from stillhouse.io.media import read_clip

    assert len(read_clip("chunks.gif")[0]) == 9


def test_what_cannot_be_is_told(capsys):
    assert main(["sample", "control", "--labels", "999999", "--steps", "1"]) == 2
    assert "Demonstration rows have the numbers 0 …" in capsys.readouterr().err
    assert main(["sample", "control", "-n", "0"]) == 2
    assert "must be 1 or more, not 0" in capsys.readouterr().err


def test_a_student_is_measured_beside_teacher_and_demonstrations(capsys):
    words = [
        "--teacher",
        "control",
        "--form",
        "deterministic",
        "--iterations",
        "2",
        "--batch",
        "8",
        "--quiet",
        "--out",
        "run",
    ]
    assert main(["distill", "onedp", *words]) == 0
    assert main(["evaluate", "run", "-n", "16", "--teacher-steps", "2"]) == 0
    pred = capsys.readouterr().out
    assert "valid" in pred and "real data" in pred
