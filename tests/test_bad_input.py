"""Bad input gets one clear sentence and exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stillhouse.api.runs import distill
from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Flow
from stillhouse.opening import load
from stillhouse.worlds.base import get_world

SMALL = [
    "--world",
    "mixture",
    "--teacher",
    "exact",
    "--student",
    "width=8",
    "depth=1",
    "--batch",
    "4",
    "--iterations",
    "2",
    "--quiet",
]
Told = Callable[..., str]


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """Runs a command that must be refused in an empty folder; returns its sentence."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words: str, leaves: tuple[str, ...] = ()) -> str:
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        assert code == 2, (code, out, err)
        assert out == "" and err.startswith("stillhouse: ") and err.endswith("\n") and err.count("\n") == 1, (
            err
        )
        assert "Traceback" not in err
        assert sorted(os.listdir(".")) == sorted(leaves)
        return err.removeprefix("stillhouse: ").strip()

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints, to be copied and spoilt."""
    out = tmp_path_factory.mktemp("bad") / "run"
    assert main(["distill", "cm", *SMALL, "--save-every", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture
def degraded(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "spoilt"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["distil"], "There is no command 'distil'; did you mean 'distill'?"),
        (["distill"], "Name a method"),
        (["distill", "progresive"], "There is no method 'progresive'; did you mean 'progressive'?"),
        (["distill", "./gone.py:Mine"], "There is no system's file './gone.py'."),
        (["distill", "cm"], "Name a teacher or a world"),
        (["distill", "cm", "--world", "mixtur"], "There is no world 'mixtur'; did you mean 'mixture'?"),
        (
            ["distill", "cm", "--world", "mixture", "layout=rng"],
            "There is no mixture layout 'rng'; did you mean 'ring'?",
        ),
        (["distill", "cm", "--world", "mixture", "shape=3"], "can't be made from {'shape': 3}"),
        (["distill", "cm", "--world", "mixture", "layout"], "takes KEY=VALUE, not 'layout'"),
        (
            ["distill", "cm", "--levls", "3"],
            "There is no option '--levls' of stillhouse distill cm; did you mean '--levels'?",
        ),
        (["distill", "cm", "--steps"], "--steps: expected one argument"),
        (["distill", "cm", *SMALL, "--levels", "many"], "'levels' of CM is a number, not 'many'"),
        (["distill", "cm", *SMALL, "--levels", "2.5"], "'levels' is a whole number, not 2.5"),
        (["distill", "cm", *SMALL, "--decay", "1.5"], "'decay' is at most 1, not 1.5"),
        (["distill", "cm", *SMALL, "--decay", ".nan"], "'decay' is a finite number"),
        (["distill", "cm", *SMALL, "--source", "nowhere"], "'source' is one of teacher, data, not 'nowhere'"),
        (["distill", "cm", *SMALL, "--steps", "0"], "'steps' is at least 1, not 0"),
        (["distill", "cm", *SMALL, "--steps", "-2"], "'steps' is at least 1, not -2"),
        (["distill", "cm", *SMALL, "--iterations", "0"], "Run option 'steps' is at least 1, not 0"),
        (["distill", "cm", *SMALL, "--batch", "-4"], "Run option 'batch' is at least 1, not -4"),
        (
            ["distill", "cm", *SMALL, "--batch", "5", "--grad-accum", "2"],
            "A batch of 5 can't be split into 2",
        ),
        (
            ["distill", "cm", *SMALL, "--precision", "fp8"],
            "Run option 'precision' is one of fp32, bf16, fp16, not 'fp8'",
        ),
        (["distill", "cm", *SMALL, "--lr", "student=0"], "A learning rate is positive and finite, not 0"),
        (["distill", "cm", *SMALL, "--lr", "stdent=1"], "No player 'stdent'"),
        (["distill", "cm", *SMALL, "--lr", "1e-3"], "--lr takes KEY=VALUE, not '1e-3'"),
        (
            ["distill", "cm", *SMALL, "--schedule", "square"],
            "Run option 'schedule' is one of , constant, linear, cosine, not 'square'",
        ),
        (
            ["distill", "cm", *SMALL, "--data", "wrld"],
            "There is no kind of data 'wrld'; did you mean 'world'?",
        ),
        (["distill", "cm", *SMALL, "--data", "none"], "learns from real data"),
        (["distill", "cm", *SMALL, "--student", "widht=8"], "did you mean 'width'?"),
        (["distill", "cm", *SMALL, "--student", "dim=3"], "samples of 3 numbers, not of 2"),
        (["distill", "cm", "--teacher", "gone"], "There is no model 'gone'"),
        (["distill", "cm", "--teacher", "exact"], "The closed-form teacher is a world's; name the world"),
        (
            ["distill", "cm", "--world", "mixture", "--teacher", "exact:flo"],
            "There is no process 'flo'; did you mean 'flow'?",
        ),
        (
            ["distill", "cm", "--world", "digits", "--teacher", "mixture"],
            "The teacher makes samples of shape (2,), the data has (1, 8, 8)",
        ),
        (
            ["distill", "progressive", "--teacher", "mixture", "--student", "width=8"],
            "needs a student of the teacher's size",
        ),
        (["distill", "cm", "--config", "gone.yaml"], "There is no run file 'gone.yaml'"),
        (["distill", "--resume", "gone"], "There is no run to resume in 'gone'"),
        (["train"], "Name a world"),
        (["train", "--world", "mixture", "--kind", "velocty"], "did you mean 'velocity'?"),
        (["train", "--world", "mixture", "--process", "flw"], "There is no process 'flw'"),
        (
            ["train", "--world", "mixture", "--network", "name=mlpp"],
            "There is no model 'mlpp'; did you mean 'mlp'?",
        ),
        (["train", "--world", "mixture", "--label-dropout", "2"], "'label_dropout' is at most 1, not 2"),
        (["sample", "gone"], "There is no model 'gone'"),
        (["sample", "mixture", "--steps", "0"], "at least one step and at most 100000, not 0"),
        (["sample", "mixture", "--steps", "two"], "invalid int value: 'two'"),
        (["sample", "mixture", "-n", "0"], "must be 1 or more, not 0"),
        (["sample", "mixture", "--labels", "8"], "Class labels lie in 0 … 7, not 8"),
        (["sample", "mixture", "--labels", "1,x"], "--labels takes whole numbers"),
        (["sample", "mixture", "--out", "x.png"], "are no images"),
        (["sample", "mixture", "--out", "x.pt"], "not '.pt'"),
        (["evaluate", "mixture", "--world", "digits"], "World 'digits' holds samples of shape (1, 8, 8)"),
        (["evaluate", "mixture", "--world", "mixture", "-n", "2"], "at least 8 samples, not 2"),
        (["report", "gone"], "There is no run's folder 'gone'"),
        (["check"], "Name the systems to check"),
        (["check", "cmm"], "There is no method 'cmm'; did you mean 'cm'?"),
        (["systems", "--family", "trajectry"], "There is no family 'trajectry'"),
    ],
)
def test_one_sentence_and_nothing_written(told: Told, words: list[str], sentence: str) -> None:
    assert sentence in told(*words)


def test_a_folder_that_is_not_empty(told: Told) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("file").touch()
    both = ("full", "file")
    assert told("distill", "cm", *SMALL, "--out", "full", leaves=both) == (
        "The folder 'full' is not empty; resume the run in it or give another name."
    )
    assert "is a file, not a folder" in told("distill", "cm", *SMALL, "--out", "file", leaves=both)
    assert "holds no run.yaml" in told("distill", "--resume", "full", leaves=both)
    assert os.listdir("full") == ["mine.txt"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method: cm\nworld: mixture\nlevels: 4\n", "There is no entry of a run file 'levels'"),
        (
            "method: cm\nworld: mixture\noptions: {levls: 4}\n",
            "There is no option of CM named 'levls'; did you mean 'levels'?",
        ),
        (
            "method: cm\nworld: mixture\nrun: {bach: 4}\n",
            "There is no run option 'bach'; did you mean 'batch'?",
        ),
        (
            "method: cm\nworld: mixture\noptions: 4\n",
            "'run.yml' can't be read: 'options' is a table of names and values or none, not 4.",
        ),
        (
            "command: train\nworld: mixture\n",
            "describes a run of stillhouse train, not of stillhouse distill",
        ),
        ("method: [\n", "is not valid YAML"),
        ("just words\n", "holds no entries"),
    ],
)
def test_a_wrong_run_file(told: Told, text: str, sentence: str) -> None:
    Path("run.yml").write_text(text)
    assert sentence in told("distill", "--config", "run.yml", leaves=("run.yml",))


def test_a_model_that_is_torn(told: Told, degraded: Path) -> None:
    weights = degraded / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "is no whole safetensors file" in told("sample", str(degraded))
    assert "is no whole safetensors file" in told(
        "distill", "cm", "--teacher", str(degraded), "--world", "mixture"
    )
    weights.unlink()
    assert "holds no model.safetensors" in told("sample", str(degraded))


def test_a_model_of_somebody_else(told: Told, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert "not our header" in told("sample", str(tmp_path / "other.safetensors"))


def test_a_pickle(told: Told, tmp_path: Path) -> None:
    for name, save in (
        ("m.pt", lambda f: torch.save({"w": torch.zeros(2)}, f)),
        ("m.safetensors", lambda f: f.write_bytes(pickle.dumps([1]))),
    ):
        save(tmp_path / name)
        assert "is a pickle, which can run code when opened" in told("sample", str(tmp_path / name))


def test_a_torn_checkpoint_is_passed_over(degraded: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (degraded / "model" / "model.safetensors").read_bytes()
    newest = max((degraded / "checkpoints").iterdir())
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert main(["distill", "--resume", str(degraded), "--quiet"]) == 0
    assert "is torn" in caplog.text and newest.name in caplog.text
    assert (degraded / "model" / "model.safetensors").read_bytes() == before


def test_a_resumed_run_keeps_its_settings(told: Told, degraded: Path) -> None:
    assert "started with other settings (batch)" in told(
        "distill", "--resume", str(degraded), "--batch", "8", "--quiet"
    )
    assert "leave --out away" in told("distill", "--resume", str(degraded), "--out", "x")
    assert "not both" in told("distill", "--resume", str(degraded), "--config", "x")


def test_a_run_with_objects_in_memory_is_resumed_from_python(told: Told, tmp_path: Path) -> None:
    teacher = load("mixture")
    distill(teacher, "cm", world="mixture", iterations=1, batch=4, quiet=True, out=tmp_path / "run")
    assert "its own teacher in memory" in told("distill", "--resume", str(tmp_path / "run"))


def test_wrong_data() -> None:
    common = {
        "world": "mixture",
        "student": {"width": 8, "depth": 1},
        "batch": 4,
        "iterations": 1,
        "quiet": True,
    }
    x, labels = torch.randn(8, 2), torch.arange(8)
    x[3, 1] = torch.nan
    with pytest.raises(StillhouseError, match="NaN or infinite values .first in sample 3"):
        distill("exact", "cm", data=(x, labels), **common)
    with pytest.raises(StillhouseError, match=r"Labels must lie in 0 … 7; found 1 … 8"):
        distill("exact", "cm", data=(torch.randn(8, 2), labels + 1), **common)
    with pytest.raises(StillhouseError, match="8 samples but 7 labels"):
        distill("exact", "cm", data=(torch.randn(8, 2), labels[:7]), **common)
    with pytest.raises(StillhouseError, match=r"shape \(2,\), the data has \(3,\)"):
        distill("exact", "cm", data=(torch.randn(8, 3), labels), **common)
    with pytest.raises(StillhouseError, match="data set is empty"):
        distill("exact", "cm", data=(torch.zeros(0, 2), None), **common)
    with pytest.raises(StillhouseError, match="no option of CM named 'levls'; did you mean 'levels'"):
        distill("exact", "cm", levls=3, **common)


def test_a_foreign_network_that_does_not_fit() -> None:
    class Net(torch.nn.Linear):
        def forward(self, x, t, cond=None):
            return super().forward(x)

    with pytest.raises(
        StillhouseError,
        match=r"The teacher can't be called on samples of shape \(2,\): RuntimeError: "
        r"mat1 and mat2",
    ):
        distill(load(Net(3, 3), shape=(2,)), "cm", world="mixture", quiet=True)


def test_options_that_a_source_does_not_take(tmp_path: Path) -> None:
    net = get_world("mixture").network(Flow(), width=8, depth=1)
    model = load(net.net, process={"name": "ve", "sigma_max": 10.0}, kind="edm", shape=(2,))
    assert model.denoiser.process == VE(sigma_max=10.0)
    model.save_pretrained(tmp_path / "model")
    for options, names in (
        ({"process": "cosine"}, "process"),
        ({"kind": "eps", "steps": 8}, "kind, steps"),
        ({"shape": (2,), "classes": 3}, "shape, classes"),
    ):
        for source in (tmp_path / "model", "mixture"):
            with pytest.raises(StillhouseError, match=f"in its own files; opening it takes no {names}."):
                load(source, **options)
    with pytest.raises(StillhouseError, match="loading one takes no process, kind"):
        load(net, process="cosine", kind="eps", shape=(2,))
    with pytest.raises(StillhouseError, match="Loading a module takes no length, base"):
        load(net, shape=(2,), length=3, base="mixture")
    with pytest.raises(StillhouseError, match="process"):
        load(net.net, process={"name": "flaw"}, shape=(2,))


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From the call ``after`` on no file reaches the disk."""
    real, calls = os.fsync, iter(range(10**6))

    def fsync(handle: int) -> None:
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("after", range(5))
def test_a_full_disk(told: Told, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The disk is full at the run's YAML, at a file of the checkpoint, or when its folder is renamed: no torn
    file has a final name."""
    full_disk(monkeypatch, after)
    sentence = told("distill", "cm", *SMALL, "--out", "run", leaves=("run",) if after else ())
    assert "No space left on device" in sentence
    files = {p.relative_to("run").as_posix() for p in Path("run").rglob("*") if p.is_file()}
    assert not any(".part" in f or ".tmp" in f for f in files) and "model/model.safetensors" not in files
    for state in Path("run").rglob("state.json"):
        sums = json.loads(json.loads(state.read_text())["state"])["files"]
        assert all(
            (state.parent / f"{name}.safetensors").stat().st_size == size for name, (size, _) in sums.items()
        )


def test_a_full_disk_leaves_old_samples_alone(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("x.npy", np.ones(3))
    full_disk(monkeypatch, 0)
    assert "No space left" in told(
        "sample", "mixture", "-n", "2", "--steps", "1", "--out", "x.npy", leaves=("x.npy",)
    )
    assert np.load("x.npy").tolist() == [1, 1, 1]


def test_world_options_that_are_wrong() -> None:
    with pytest.raises(StillhouseError, match="A world's entry needs its name"):
        distill("exact", "cm", world={"layout": "ring"})
    with pytest.raises(StillhouseError, match="shape of a bare denoiser's samples is unknown"):
        distill(get_world("mixture").network(load("mixture").denoiser.process), "cm")
