"""A run as a value, by both verbs: what is recorded, what is refused, and a program that was killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from stillhouse import distill, load, train_model
from stillhouse.api.run import Run
from stillhouse.core.errors import StillhouseError

SHORT = {"iterations": 3, "batch": 8, "quiet": True}
SMALL = {"width": 16, "depth": 1}
PROGRAM = """
import sys
from stillhouse import distill
how = {"students": 2, "pairs": 32, "pair_steps": 4, "iterations": 80, "batch": 32, "save_every": 5}
distill("mixture", "msd", world="mixture", out=sys.argv[1], resume=sys.argv[2] == "resume", quiet=True, **how)
"""


def test_a_run_is_the_same_after_a_trip_through_yaml(tmp_path):
    run = Run(system="dmd2", teacher="mixture", world={"name": "mixture"}, options={"first_time": 0.7})
    run.recipe = {"iterations": 7, "lr": {"student": 1e-3}}
    run.to_yaml(tmp_path / "run.yaml")
    again = Run.from_yaml(tmp_path / "run.yaml")
    assert again.entries()["options"] == {"first_time": 0.7}
    assert {k: v for k, v in again.entries().items() if k != "versions"} == {
        k: v for k, v in run.entries().items() if k != "versions"
    }


def test_the_teacher_that_was_taken_is_the_one_that_is_recorded(tmp_path):
    student = distill(None, "dmd2", world="mixture", gan_weight=0.0, out=tmp_path / "run", **SHORT)
    assert Run.from_yaml(tmp_path / "run" / "run.yaml").teacher == "mixture"
    assert student.info["teacher"] == "mixture" == load(tmp_path / "run" / "model").info["teacher"]


def test_a_system_without_a_teacher_opens_none(tmp_path, monkeypatch):
    monkeypatch.setattr("stillhouse.api.models.load", lambda *a, **k: pytest.fail("a teacher was opened"))
    made = train_model("denoising", world="mixture", network=SMALL, out=tmp_path / "run", **SHORT)
    assert made.free_steps and not made.info.get("teacher")
    assert not Run.from_yaml(tmp_path / "run" / "run.yaml").teacher


def test_the_wrong_verb_names_the_right_one(tmp_path):
    with pytest.raises(StillhouseError, match="use stillhouse train denoising"):
        distill("mixture", "denoising", world="mixture", out=tmp_path / "a", **SHORT)
    with pytest.raises(StillhouseError, match="use stillhouse distill dmd2"):
        train_model("dmd2", world="mixture", out=tmp_path / "b", **SHORT)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_a_program_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    def start(name, how):
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / name), how])

    assert start("whole", "new").wait() == 0
    killed = start("cut", "new")
    second = tmp_path / "cut" / "parts" / "matching1" / "checkpoints"
    for _ in range(2000):  # until the second student has begun
        if (second.is_dir() and any(second.glob("step-*"))) or killed.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "cut" / "model").exists()
    assert start("cut", "resume").wait() == 0
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(v, cut[k]) for k, v in whole.items())
