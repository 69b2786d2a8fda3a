"""One run is one run: one process at a time in its folder, and it goes on as what it began as."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import stillhouse
from stillhouse.api.models import open_product
from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines.tiny import build
from stillhouse.train import checkpoint
from stillhouse.train.run_folder import LOCK, held, is_free, tidy

WORDS = ("distill", "progressive", "--teacher", "mixture", "--teacher-steps", "4", "--batch", "4", "--quiet")


def begun(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """A long run in a process of its own, once it is at work."""
    words = [sys.executable, "-m", "stillhouse", *WORDS, "--iterations", "100000", "--save-every", "5", *more]
    process = subprocess.Popen(
        [*words, "--out", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    end = time.time() + 120
    while not list(folder.glob("checkpoints/step-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.time() < end
        time.sleep(0.1)
    return process


def test_the_second_process_is_refused_and_a_dead_one_is_no_hindrance(tmp_path, capsys):
    process = begun(tmp_path / "run")
    try:
        before = (tmp_path / "run" / "run.yaml").read_bytes()
        for words in (["distill", "--resume"], [*WORDS, "--iterations", "2", "--out"]):
            assert main([*words, str(tmp_path / "run")]) == 2
        shown = capsys.readouterr().err
        assert f"a run is at work, process {process.pid} on " in shown and "is not empty" in shown
        with pytest.raises(StillhouseError, match=f"process {process.pid} on"), held(tmp_path / "run"):
            pass
        assert process.poll() is None and (tmp_path / "run" / "run.yaml").read_bytes() == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "run" / LOCK).exists()  # its file is left, the lock is not
    with held(tmp_path / "run"):
        about = json.loads((tmp_path / "run" / LOCK).read_text())
        assert about["process"] == os.getpid() and about["host"] and about["since"]
        with pytest.raises(StillhouseError, match="a run is at work"), held(tmp_path / "run"):
            pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_of_many_that_begin_at_once_one_holds_the_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from stillhouse.train.run_folder import held\n"
        "from stillhouse.core.errors import StillhouseError\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "try:\n    with held(Path(sys.argv[1])): print('held'); time.sleep(3)\n"
        "except StillhouseError: print('refused')"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run"), str(time.time() + 8)]
    several = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(4)]
    said = sorted(process.communicate()[0].decode().strip() for process in several)
    assert said == ["held", "refused", "refused", "refused"] and not (tmp_path / "run").exists()


def test_a_run_that_was_killed_before_it_began_leaves_a_folder_to_begin_in(tmp_path):
    folder = tmp_path / "run"
    (folder / "cache").mkdir(parents=True)
    (folder / LOCK).write_text("torn")
    (folder / ".run.yaml.0a1b2c3d.part").write_text("meth")
    assert is_free(folder)
    assert main([*WORDS, "--iterations", "2", "--out", str(folder)]) == 0
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []
    assert not is_free(folder)
    (folder / "checkpoints" / ".step-00000009.tmp").mkdir()
    (folder / "model" / ".x.part").touch()
    (folder / "parts" / "one" / "checkpoints" / ".step-00000009.tmp").mkdir(parents=True)
    (folder / "validation").mkdir()
    (folder / "validation" / ".step-00000001.png.0a1b2c3d.part").touch()
    (folder / "model" / "mine.part").touch()  # a user's own
    tidy(folder)
    assert not list(folder.rglob("checkpoints/.*")) and not list((folder / "validation").iterdir())
    assert [p.name for p in folder.glob("model/*.part")] == ["mine.part"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").touch()
    assert not is_free(tmp_path / "notes") and is_free(tmp_path / "nowhere")


def test_a_product_that_is_half_saved_is_made_again(tmp_path):
    """Its folder is there before its file is."""
    how = {"out": tmp_path / "run", "quiet": True, "steps": 2, "grid_steps": 4, "searched": 2}
    stillhouse.distill("mixture", "oss", **how)
    file = tmp_path / "run" / "model" / "model.safetensors"
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(StillhouseError, match="has made no model yet"):
        open_product(tmp_path / "run")
    stillhouse.distill("mixture", "oss", resume=True, **how)
    assert file.read_bytes() == whole


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run of two iterations, and the same with one of them done."""
    folder = tmp_path_factory.mktemp("half") / "run"
    assert main([*WORDS, "--iterations", "2", "--save-every", "1", "--out", str(folder)]) == 0
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-00000002")
    return folder


OTHER = {
    "world": ["--world", "mixture", "layout=moons"],
    "student": ["--student", "width=8"],
    "ema_half_life": ["--ema-half-life", "50"],
    "lora_targets": ["--lora-targets", "all"],
    "nonfinite": ["--nonfinite", "skip"],
    "betas": ["--betas", "0.5,0.9"],
    "precision": ["--precision", "bf16"],
    "seed": ["--seed", "3"],
}


@pytest.mark.parametrize("what", OTHER)
def test_a_run_goes_on_as_what_it_began_as(half, tmp_path, what, capsys):
    shutil.copytree(half, tmp_path / "run")
    before = (tmp_path / "run" / "run.yaml").read_bytes()
    assert main(["distill", "--resume", str(tmp_path / "run"), *OTHER[what], "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert what in shown and "to resume it" in shown, shown
    assert (tmp_path / "run" / "run.yaml").read_bytes() == before and not (
        tmp_path / "run" / "model"
    ).exists()


def test_what_is_kept_and_shown_may_change(half, tmp_path):
    shutil.copytree(half, tmp_path / "run")
    assert (
        main(
            ["distill", "--resume", str(tmp_path / "run"), "--save-every", "5", "--log-every", "1", "--quiet"]
        )
        == 0
    )


def test_other_data_is_another_run(tmp_path):
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    options = {
        "levels": 4,
        "batch": 4,
        "iterations": 2,
        "save_every": 1,
        "quiet": True,
        "out": tmp_path / "run",
    }
    stillhouse.distill("mixture", "cm", data=(x, None), source="data", **options)
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000002")
    with pytest.raises(StillhouseError, match=r"other settings \(data\)"):
        stillhouse.distill("mixture", "cm", data=(x + 1, None), source="data", resume=True, **options)
    stillhouse.distill("mixture", "cm", data=(x.clone(), None), source="data", resume=True, **options)


@pytest.mark.parametrize("form", ["ours", "diffusers"])
def test_another_teacher_in_the_same_place_is_another_run(form, tmp_path):
    """The folder is named as before, its weights are others."""
    teacher = tmp_path / "teacher"
    data = tmp_path / "prompts.txt" if form == "diffusers" else (torch.randn(8, 2), None)
    (tmp_path / "prompts.txt").write_text("a red cube\na blue ball\n")

    def make(seed: int) -> None:
        shutil.rmtree(teacher, ignore_errors=True)
        if form == "diffusers":
            build("sd", teacher)
            (file,) = (teacher / "unet").glob("*.safetensors")
            save_file({name: x * (1 + 0.001 * seed) for name, x in load_file(file).items()}, file)
        else:
            made = stillhouse.load("mixture").denoiser.copy()
            with torch.no_grad():
                next(made.parameters()).mul_(1 + 0.001 * seed)
            stillhouse.load(made, shape=(2,)).save_pretrained(teacher)

    def run(**more) -> None:
        few = {"iterations": 2, "batch": 2, "save_every": 1, "quiet": True, "out": tmp_path / "run"}
        slug, own = ("swiftbrush", {}) if form == "diffusers" else ("progressive", {"teacher_steps": 4})
        stillhouse.distill(teacher, slug, data=data, **own, **few, **more)

    make(0)
    run()
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000002")
    make(1)
    with pytest.raises(StillhouseError, match="had other weights than the one given now"):
        run(resume=True)
    make(0)
    run(resume=True)


def test_every_flipped_bit_of_a_state_is_seen(half, tmp_path):
    """The older checkpoint is taken then, or the run begins anew; it never goes on with what is torn."""
    place = tmp_path / "checkpoints"
    shutil.copytree(half / "checkpoints", place)
    file = place / "step-00000001" / "state.json"
    whole = file.read_bytes()
    assert checkpoint.newest(place) is not None
    unseen = []
    for bit in range(0, 8 * len(whole), 7):
        torn = bytearray(whole)
        torn[bit // 8] ^= 1 << bit % 8
        file.write_bytes(torn)
        found = checkpoint.newest(place)
        if found is not None:
            unseen.append((bit, found[0]["step"]))
    assert not unseen
    for other in (b"", whole[:100], b"[]", b"null", b"3", b'{"files": 1}', b'{"state": 3, "digest": 4}'):
        file.write_bytes(other)
        assert checkpoint.newest(place) is None
    file.write_bytes(whole)
    (place / "step-00000001").rename(place / "step-00000009")  # its step is its folder's
    assert checkpoint.newest(place) is None
