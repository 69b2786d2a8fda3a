"""A run's folder from a stranger: no code that it names is run, and no hub that it names is asked, unless the
user names it in the command."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import yaml

from stillhouse.api.run import Run
from stillhouse.api.trust import changed, code_in, digests
from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError

CODE = "from pathlib import Path\nPath('ran').touch()\n"
QUICK = ("--iterations", "2", "--batch", "4", "--quiet")
HOSTILE = {
    "adapter": {"adapter": "evil.py:Evil"},
    "method": {"method": "evil.py:Evil"},
    "teacher": {"teacher": "evil.py:make"},
    "network": {"network": "evil.py:make"},
    "data": {"data": "evil.py:make"},
    "reward": {"method": "hyper_sd", "options": {"reward": "evil:across", "reward_share": 0.5}},
    "perceptual": {"method": "dmd", "options": {"perceptual": "evil.py:Blur"}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("hostile") / "run"
    words = (
        "distill",
        "progressive",
        "--teacher",
        "mixture",
        "--teacher-steps",
        "4",
        *QUICK,
        "--out",
        str(out),
    )
    assert main(list(words)) == 0
    assert main(["evaluate", str(out), "-n", "16", "--teacher-steps", "2"]) == 0
    return out


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A folder to work in, with the run in it and a file whose import leaves a trace."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "evil.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def edit(**entries):
    file = Path("run/run.yaml")
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **entries}))


def commands():
    few = ("-n", "16", "--teacher-steps", "2")
    return {
        "sample": ("sample", "run", "-n", "4", "--out", "made.npy"),
        "evaluate": ("evaluate", "run", *few),
        "report": ("report", "run", "--out", "page.html"),
        "distill --teacher": (
            "distill",
            "cm",
            "--teacher",
            "run",
            "--world",
            "mixture",
            *QUICK,
            "--out",
            "next",
        ),
        "--resume": ("distill", "--resume", "run", "--quiet"),
        "--config": ("distill", "--config", "run/run.yaml", "--out", "again", "--quiet"),
        "inspect": ("inspect", "run"),
        "export": ("export", "run", "--out", "exported"),
    }


@pytest.mark.parametrize("which", HOSTILE)
def test_no_command_runs_the_code_that_a_folder_names(which, place, capsys):
    edit(**HOSTILE[which])
    refusals = []
    for name, words in commands().items():
        code = main(list(words))
        assert not Path("ran").exists(), f"{name} ran what the file names"
        shown = capsys.readouterr().err
        assert "Traceback" not in shown
        if code:
            refusals.append(name)
            assert "evil" not in shown or "only where you name it" in shown, shown
    assert {"--resume", "--config"} <= set(refusals)


def test_the_sentence_is_the_command_that_works(place, capsys):
    edit(adapter="evil.py:Evil", data="evil.py:make")
    assert main(["distill", "--resume", "run", "--quiet"]) == 2
    shown = capsys.readouterr().err
    assert "stillhouse distill --resume run --data evil.py:make --adapter evil.py:Evil" in shown
    assert main(["sample", "run"]) == 2
    assert "add --adapter evil.py:Evil" in capsys.readouterr().err
    edit(adapter=None, data="auto", method="evil.py:Evil")
    assert main(["distill", "--resume", "run", "--quiet"]) == 2
    assert "stillhouse distill evil.py:Evil --resume run" in capsys.readouterr().err
    assert not Path("ran").exists()
    # one that the user has named is not asked for again, another one is
    edit(method="progressive", adapter="evil.py:Evil", data="other.py:make")
    assert main(["distill", "--resume", "run", "--adapter", "mine.py:Mine", "--quiet"]) == 2
    assert "--resume run --adapter mine.py:Mine --data other.py:make" in capsys.readouterr().err


def test_code_that_the_user_names_runs(place):
    (place / "evil.py").write_text(
        CODE + "from stillhouse.systems.trajectory.progressive import Progressive\n"
        "from dataclasses import dataclass\n@dataclass\nclass Mine(Progressive):\n    pass\n"
    )
    words = ("distill", "./evil.py:Mine", "--teacher", "mixture", "--teacher-steps", "4", "--save-every", "1")
    assert main([*words, *QUICK, "--out", "own"]) == 0 and Path("ran").exists()
    recorded = yaml.safe_load(Path("own/run.yaml").read_text())
    assert list(recorded["code"].values()) and recorded["method"].endswith("evil.py:Mine")
    Path("ran").unlink()
    shutil.rmtree("own/model")
    shutil.rmtree("own/checkpoints/step-00000002")
    assert main(["distill", "--resume", "own", "--quiet"]) == 2 and not Path("ran").exists()
    assert main(["distill", "./evil.py:Mine", "--resume", "own", "--quiet"]) == 0 and Path("ran").exists()


def test_code_that_has_changed_since_is_named(place, caplog):
    (place / "net.py").write_text(
        "import torch\nfrom stillhouse import load\ndef make():\n    return load('mixture')\n"
    )
    words = (
        "distill",
        "progressive",
        "--teacher",
        "net.py:make",
        "--world",
        "mixture",
        "--teacher-steps",
        "4",
    )
    assert main([*words, "--save-every", "1", *QUICK, "--out", "own"]) == 0
    again = ["distill", "--resume", "own", "--teacher", "net.py:make", "--quiet"]
    assert main(again) == 0 and "has changed" not in caplog.text
    with (place / "net.py").open("a") as file:
        file.write("# another line\n")
    assert main(again) == 0
    assert "net.py has changed since this run began" in caplog.text


def test_a_run_in_python_is_asked_for_its_code_too(place):
    edit(adapter="evil.py:Evil")
    with pytest.raises(StillhouseError, match="names code, evil.py:Evil; read it with code=True"):
        Run.from_yaml("run")
    assert Run.from_yaml("run", code=True).adapter == "evil.py:Evil"


@pytest.mark.parametrize("entry", ["teacher", "student"])
def test_nothing_is_fetched_that_the_user_has_not_named(entry, place, capsys, monkeypatch):
    tried = []

    def refuse(*given, **more):
        tried.append(given)
        raise OSError("this test has no network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    edit(**{entry: "hub:nobody/nothing"})
    codes = {}
    for name, words in commands().items():
        codes[name] = main(list(words))
        shown = capsys.readouterr().err
        assert not tried, f"{name} asked {tried}"
        assert "Traceback" not in shown and (not codes[name] or shown.startswith("stillhouse: ")), shown
    assert codes["sample"] == 0 and codes["--config"] == 2
    if entry == "teacher":
        assert codes["evaluate"] == codes["report"] == 2
    assert main(["sample", "hub:nobody/nothing"]) == 2 and tried  # the trap works


def test_code_is_found_wherever_a_file_may_name_it(tmp_path):
    assert code_in({"method": "cm", "teacher": "mnist", "data": "folder", "options": {"steps": 2}}) == {}
    named = {"system": "a.py", "adapter": "b.py:B", "options": {"reward": "c:d", "x": "e.py:f"}}
    assert code_in({**named, "system": "hyper_sd"}) == {
        "adapter": "b.py:B",
        "options.reward": "c:d",
        "options.x": "e.py:f",
    }
    assert code_in(named)["method"] == "a.py"
    file = tmp_path / "b.py"
    file.write_text("one")
    entries = {"adapter": f"{file}:B"}
    before = {"code": digests(entries)}
    assert list(before["code"]) == [f"{file}:B"] and changed(before, entries) == []
    file.write_text("two")
    assert changed(before, entries) == ["b.py"] and changed({}, entries) == []
