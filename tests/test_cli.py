"""The command line end to end, on a small method from outside the tree."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import stillhouse
from stillhouse.api.options import coerce, explain, fields_of, plain, run_fields
from stillhouse.api.runs import distill, train_teacher
from stillhouse.cli import COMMANDS, log_once, main
from stillhouse.core.errors import StillhouseError
from stillhouse.io.images import save_samples, tile
from stillhouse.systems.registry import class_of, find, list_systems
from stillhouse.train.data import NoData
from stillhouse.train.method import Method

METHOD = '''
"""Tiny: the student copies what the teacher says."""
from dataclasses import dataclass
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.method import Method
from stillhouse.train.option import option

@dataclass
class Tiny(Method):
    """Tiny. Nobody, 2031 (arXiv 3101.12345)."""
    gain: float = option(1.5, "factor of the loss", unit="per sample", low=0, high=9)
    steps: int = option(2, "calls per sample", low=1)
    law: str = option("even", "law of times", choices=("even", "odd"))
    mean: bool = option(True, "take the mean")

    def student_loss(self, batch: Batch):
        x, t = batch.noise(), batch.times(0.1, 0.9)
        gap = self.student(x, t, batch.cond).x0 - self.teacher(x, t, batch.cond).x0
        return self.gain * gap.square().mean()

    def samplings(self):
        return {self.steps: Sampling.steps(self.process, self.steps, solver="ddim")}
'''
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
    "--quiet",
]


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("method") / "tiny.py"
    file.write_text(METHOD)
    return f"{file}:Tiny"


@pytest.fixture(scope="module")
def run(method: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert (
        main(
            [
                "distill",
                method,
                *SMALL,
                "--iterations",
                "3",
                "--gain",
                "2",
                "--seed",
                "7",
                "--lr",
                "student=1e-3",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


@pytest.mark.parametrize("words", [["--help"], ["systems"], ["check", "--help"], ["sample", "--help"]])
def test_help_does_not_import_torch(words: list[str]) -> None:
    code = (
        f"import sys; from stillhouse.cli import main; rc = main({words!r}); sys.exit(rc or 3 * "
        "('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout


def test_the_module_runs(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stillhouse", "distil"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stillhouse: There is no command 'distil'; did you mean 'distill'?\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: stillhouse {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stillhouse {stillhouse.__version__}\n"


def test_systems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", "--json", "--family", "trajectory"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [s["slug"] for s in listed] == [s.slug for s in list_systems("trajectory")]
    assert {"slug", "family", "paper", "file", "worlds", "needs"} <= set(listed[0])
    assert main(["systems"]) == 0
    assert "2303.01469" in capsys.readouterr().out


def test_a_method_s_help_lists_its_own_options(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", method, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--gain X factor of the loss [per sample; 0 … 9; default 1.5]" in shown
    assert "law of times [one of even, odd; default even]" in shown
    assert "--mean, --no-mean" in shown and "--iterations N" in shown
    assert shown.index("options of Tiny") < shown.index("options of the run")


def test_every_method_s_options_are_all_explained() -> None:
    for system in list_systems():
        kind = class_of(system.slug)
        if not issubclass(kind, Method):
            continue
        for name, line in explain(kind).items():
            assert not line.startswith("["), f"{system.slug}: '{name}' has no help"
            assert "default" in line


def test_the_resolved_config_lies_beside_the_result(run: Path) -> None:
    config = yaml.safe_load((run / "run.yaml").read_text())
    assert (
        config["command"] == "distill"
        and config["teacher"] == "exact"
        and config["world"] == {"name": "mixture"}
    )
    assert config["options"] == {"gain": 2.0, "steps": 2, "law": "even", "mean": True}
    assert (
        config["run"]["iterations"] == 3
        and config["run"]["seed"] == 7
        and config["run"]["lr"] == {"student": 1e-3}
    )
    assert config["versions"]["torch"] == torch.__version__
    assert not list(run.glob(".*"))


def test_the_student_knows_where_it_came_from(run: Path) -> None:
    model = stillhouse.load(run / "model")
    assert (
        model.info["method"] == "tiny"
        and model.info["options"]["gain"] == 2.0
        and model.info["teacher"] == "exact"
    )
    assert model.world == "mixture" and list(model.samplings) == [2]


def test_a_config_file_gives_the_same_run_and_flags_override_it(
    run: Path, method: str, tmp_path: Path
) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    words = ["distill", method, "--config", str(run / "run.yaml")]  # its code is the user's to name
    assert main([*words, "--out", str(again), "--quiet"]) == 0
    assert (
        main(
            [
                *words,
                "--seed",
                "8",
                "--no-mean",
                "--out",
                str(other),
                "--quiet",
            ]
        )
        == 0
    )
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (run, again, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert any(not torch.equal(weights[0][k], weights[2][k]) for k in weights[0])
    assert yaml.safe_load((again / "run.yaml").read_text()) == yaml.safe_load((run / "run.yaml").read_text())
    changed = yaml.safe_load((other / "run.yaml").read_text())
    assert changed["run"]["seed"] == 8 and changed["options"]["mean"] is False


def test_ctrl_c_prints_the_command_that_goes_on(method: str, tmp_path: Path) -> None:
    out = tmp_path / "a run"
    words = ["distill", method, *SMALL, "--iterations", "200000", "--out", str(out)]
    code = f"import sys; from stillhouse.cli import main; sys.exit(main({words!r}))"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    journal = out / "metrics.jsonl"
    while child.poll() is None and not (journal.exists() and journal.stat().st_size):
        try:
            child.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert f"stillhouse distill --resume '{out}'" in told and "Traceback" not in told
    assert list((out / "checkpoints").glob("step-*")) and not (out / "model").exists()
    assert main(["sample", str(out)]) == 2


def test_resume_needs_the_folder_and_the_users_own_method(
    run: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model" / "model.safetensors").read_bytes()
    assert main(["distill", "--resume", str(run), "--quiet"]) == 2
    assert f"stillhouse distill {method} --resume {run}" in capsys.readouterr().err
    assert main(["distill", method, "--resume", str(run), "--quiet"]) == 0
    assert (run / "model" / "model.safetensors").read_bytes() == before


def test_sample_writes_numbers_for_points(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "points"
    assert main(["sample", str(run), "-n", "5", "--labels", "1,2", "--seed", "3", "--out", str(out)]) == 0
    assert "5 samples in 2 step(s), 2 network call(s) each" in capsys.readouterr().out
    made = np.load(out.with_suffix(".npy"))
    assert np.array_equal(
        made, stillhouse.load(run / "model").sample(5, torch.tensor([1, 2, 1, 2, 1]), seed=3).numpy()
    )
    assert (
        main(
            ["sample", str(run), "-n", "5", "--labels", "1,2", "--out", str(out.with_suffix(".safetensors"))]
        )
        == 0
    )
    assert load_file(out.with_suffix(".safetensors"))["labels"].tolist() == [1, 2, 1, 2, 1]


def test_a_picture_holds_every_image(tmp_path: Path) -> None:
    x = torch.linspace(-1.5, 1, 5).reshape(5, 1, 1, 1).expand(5, 1, 3, 4)
    sheet = tile(x, 3)
    assert sheet.shape == (2 * 4 + 1, 3 * 5 + 1, 1)
    assert (
        [sheet[1, 1 + 5 * c, 0] for c in range(3)] == [0, 16, 96]
        and sheet[5, 1, 0] == 175
        and sheet[5, 11, 0] == 128
    )
    path = save_samples(tmp_path / "grid", x)
    assert path.suffix == ".png" and Image.open(path).size == (16, 13 - 4)
    alone = save_samples(tmp_path / "one", torch.zeros(1, 3, 64, 64))
    assert Image.open(alone).size == (64, 64)  # a picture, without a frame


def test_evaluate_prints_a_table_and_keeps_the_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "-n", "16", "--teacher-steps", "1,2"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("student", "teacher", "real data", "swd", "ms/sample"))
    assert (
        main(
            [
                "evaluate",
                str(run),
                "-n",
                "16",
                "--teacher-steps",
                "1,2",
                "--json",
                "--out",
                str(run / "again.json"),
            ]
        )
        == 0
    )
    figures = json.loads(capsys.readouterr().out)
    assert figures["n"] == 16 and {row["steps"] for row in figures["rows"] if row["who"] == "teacher"} == {
        1,
        2,
        64,
    }
    assert json.loads((run / "again.json").read_text()) == figures


def test_train_makes_a_teacher_that_distill_takes(method: str, tmp_path: Path) -> None:
    out = tmp_path / "teacher"
    words = [
        "--world",
        "mixture",
        "std=0.2",
        "--network",
        "width=8",
        "depth=1",
        "--process",
        "cosine",
        "--kind",
        "v",
    ]
    assert (
        main(
            [
                "train",
                *words,
                "--iterations",
                "2",
                "--batch",
                "4",
                "--steps",
                "8",
                "--out",
                str(out),
                "--quiet",
            ]
        )
        == 0
    )
    teacher = stillhouse.load(out / "model")
    assert teacher.denoiser.process.name == "cosine" and teacher.free_steps and list(teacher.samplings) == [8]
    config = yaml.safe_load((out / "run.yaml").read_text())
    assert (
        config["world"] == {"name": "mixture", "std": 0.2}
        and config["options"]["steps"] == 8
        and config["run"]["iterations"] == 2
    )
    student = tmp_path / "student"
    assert (
        main(
            [
                "distill",
                method,
                "--teacher",
                str(out),
                "--iterations",
                "2",
                "--batch",
                "4",
                "--out",
                str(student),
                "--quiet",
            ]
        )
        == 0
    )
    assert stillhouse.load(student / "model").parameters == teacher.parameters


def test_distill_in_python(method: str) -> None:
    common = {
        "world": "mixture",
        "student": {"width": 8, "depth": 1},
        "batch": 4,
        "iterations": 2,
        "quiet": True,
    }
    by_name = distill("exact", method, gain=2, **common)
    kind = find(method)
    by_instance = distill("exact:flow", kind(gain=3.0), gain=2.0, **common)  # type: ignore[call-arg]
    assert torch.equal(by_name.sample(8), by_instance.sample(8))
    assert by_name.sample(8, steps=2).shape == (8, 2)
    assert stillhouse.distill is distill


def test_own_data_and_data_free_runs() -> None:
    x, labels = torch.randn(32, 2), torch.arange(32) % 8
    seen = []

    class Watching(NoData):
        def rows(self, start, draws):
            seen.append(start)
            return super().rows(start, draws)

    common = {
        "world": "mixture",
        "student": {"width": 8, "depth": 1},
        "batch": 4,
        "iterations": 2,
        "quiet": True,
        "levels": 4,
    }
    distill("exact", "cm", data=(x, labels), **common)
    with pytest.raises(StillhouseError, match="learns from real data"):
        distill("exact", "cm", data=Watching((2,), 8), **common)
    assert seen


def test_train_teacher_in_python_learns() -> None:
    model = train_teacher(
        "mixture", {"width": 32, "depth": 2}, iterations=150, batch=128, ema=0.9, quiet=True
    )
    x = model.sample(400, steps=8)
    assert (
        float(x.norm(dim=1).mean()) > 2.5
    )  # the ring's radius is 4; an untrained network leaves noise, whose mean is 1.25


def test_names_of_run_options_do_not_clash(method: str) -> None:
    assert run_fields(fields_of(find(method)))["iterations"] == "steps"
    names = run_fields(["ema"])
    assert names["run_ema"] == "ema" and "ema" not in names and names["batch"] == "batch"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2E3", -2000.0),
        ("3", 3),
        ("0.5", 0.5),
        ("yes", True),
        ("[1, 2]", [1, 2]),
        ("word", "word"),
        ("[", "["),
    ],
)
def test_words_become_values(text: str, value: object) -> None:
    assert plain(text) == value and type(plain(text)) is type(value)


def test_values_take_the_type_of_the_default() -> None:
    assert coerce("x", 3, 1.0) == 3.0 and isinstance(coerce("x", 3, 1.0), float)
    assert coerce("x", "0.9, 0.99", (0.5,)) == (0.9, 0.99)
    assert coerce("x", "1e-3", 0.0) == 1e-3 and coerce("x", "true", False) is True
    for value, default in (("abc", 1.0), (1, True), (True, 1), (1, "word"), ("a", {})):
        with pytest.raises(StillhouseError, match="^x "):
            coerce("x", value, default)


def test_threads_that_wait_sleep_unless_the_user_chose():
    from stillhouse.cli import spin_less

    for given, after in (
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ):
        spin_less(given)
        assert given == after
    # the command line sets it before torch is loaded: OpenMP reads it once, then
    code = (
        "import os, sys, stillhouse.cli as c; assert 'torch' not in sys.modules; c.main(['systems']); "
        "print(os.environ['GOMP_SPINCOUNT'])"
    )
    bare = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=bare)
    assert ran.stdout.split()[-1] == "1000", ran.stderr


def test_each_warning_is_shown_once(capsys):
    log, handler = logging.getLogger("stillhouse.some.module"), log_once()
    handler.setStream(sys.stderr)
    log.addHandler(handler)
    try:
        for step in range(6):
            log.warning("a scale of %g oversaturates", 7.5)
            log.warning("picture %d is small", step % 2)
    finally:
        log.removeHandler(handler)
    assert capsys.readouterr().err.split("\n") == [
        "a scale of 7.5 oversaturates", "picture 0 is small", "picture 1 is small", "",
    ]  # fmt: skip
