"""Every file of ours, spoilt in every way: what reads it gives the right result, or one sentence that names
it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from stillhouse.api.evaluation import read_evaluation
from stillhouse.api.run import recorded_entries
from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError
from stillhouse.io.checked import bytes_of, json_of, metadata_of, tensors_of, text_of
from stillhouse.io.data.cache import open_cache
from stillhouse.io.data.encode import encode_prompts
from stillhouse.io.data.files import Digests
from stillhouse.io.export.lora import read_lora
from stillhouse.io.export.reopen import open_student
from stillhouse.io.plain_yaml import yaml_of
from stillhouse.models.words import Words
from stillhouse.opening import load
from stillhouse.train import bank, checkpoint, journal
from stillhouse.train.run_folder import held
from tests.faults.values import command, sentence_of

STUDENTS = Path(__file__).parents[1] / "compatibility" / "students"
FEW = ("--teacher", "mixture", "--teacher-steps", "4", "--batch", "4", "--iterations", "2", "--quiet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints, and its evaluation."""
    out = tmp_path_factory.mktemp("files") / "run"
    assert main(["distill", "progressive", *FEW, "--save-every", "1", "--out", str(out)]) == 0
    assert main(["evaluate", str(out), "-n", "8", "--teacher-steps", "2"]) == 0
    return out


def replaced(content: bytes) -> Callable[[Path], None]:
    return lambda file: void(file.write_bytes(content))


def void(_: object) -> None:
    return None


def cut(share: float) -> Callable[[Path], None]:
    return lambda file: void(file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)]))


def flipped(share: float) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(share * (len(content) - 1))] ^= 16
        file.write_bytes(content)

    return spoil


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        file.unlink()
        make(file)

    return spoil


OUTSIDE = "somebody else's"


def link_outside(file: Path) -> None:
    """A link to a file beside the folder of the test."""
    target = Path(tempfile.mkdtemp()) / "outside"
    target.write_text(OUTSIDE)
    file.symlink_to(target)


FAULTS: dict[str, Callable[[Path], None]] = {
    "missing": instead(void),
    "empty": replaced(b""),
    "zeros": replaced(b"\0" * 64),
    "cut": cut(0.5),
    "cut at the end": cut(0.97),
    "flipped at the start": flipped(0.01),
    "flipped": flipped(0.4),
    "list": replaced(b"[1, 2]"),
    "null": replaced(b"null"),
    "number": replaced(b"3"),
    "NaN": replaced(b"NaN"),
    "huge": replaced(b"1" * 5000),
    "deep": replaced(b"[" * 5000),
    "no text": replaced(b"\xff\xfe\xfd"),
    "pickle": replaced(pickle.dumps({"a": [1]}, protocol=2)),
    "folder": instead(Path.mkdir),
    "pipe": instead(os.mkfifo),
    "link to nothing": instead(lambda file: file.symlink_to("/nowhere/at/all")),
    "link outside": instead(link_outside),
    "unreadable": lambda file: file.chmod(0),
}


def hold(file: Path) -> None:
    with held(file.parent):
        pass


STEP = "checkpoints/step-00000002"
READERS: dict[str, Callable[[Path], object]] = {
    "run.yaml": recorded_entries,
    "evaluation.json": read_evaluation,
    "metrics.jsonl": journal.read,
    "model/model.safetensors": load,
    f"{STEP}/state.json": lambda file: checkpoint.read(file.parent),
    f"{STEP}/weights.safetensors": lambda file: checkpoint.read(file.parent),
    ".lock": hold,
}
COMMANDS = {
    "run.yaml": ("sample", "RUN", "-n", "2", "--out", "made.npy"),
    "evaluation.json": ("report", "RUN", "--out", "page.html"),
    "metrics.jsonl": ("report", "RUN", "--out", "page.html"),
    "model/model.safetensors": ("sample", "RUN", "-n", "2", "--out", "made.npy"),
    f"{STEP}/state.json": ("distill", "--resume", "RUN", "--quiet"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_file_of_a_run(name: str, fault: str, finished: Path, tmp_path: Path) -> None:
    source, file = finished / name, tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.startswith(STEP):
        shutil.copytree(source.parent, file.parent, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, file)
    else:
        file.write_text('{"host": "here"}')
    FAULTS[fault](file)
    text = sentence_of(lambda: READERS[name](file))
    assert not text or file.name in text or file.parent.name in text, text
    # what is torn is never taken for whole; a line that breaks off, and a lock of a dead process, are usual
    assert text or name in ("metrics.jsonl", ".lock") or fault.startswith(("flipped", "unreadable", "cut"))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", ["cut", "pipe"])
def test_a_command_on_a_spoilt_file(
    name: str, fault: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(finished, "run"))
    FAULTS[fault](folder / name)
    code, shown = command(*(word.replace("RUN", "run") for word in COMMANDS[name]))
    assert code == 0 or "run" in shown.splitlines()[-1]


def changes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of plain data."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, one in inner for place in changes(one, (*path, name)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    made = dict(value) if isinstance(value, dict) else list(value)
    made[path[0]] = changed(value[path[0]], path[1:], new)
    return made


WRONG = [
    None,
    "x",
    3,
    -1,
    0,
    2.5,
    True,
    [],
    {},
    [None],
    {"x": 1},
    float("nan"),
    float("inf"),
    10**400,
    "\0" * 3,
]


@pytest.mark.parametrize("name", ["run.yaml", "evaluation.json"])
def test_every_entry_of_another_type(
    name: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry after the other, each with the next of the wrong values."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(finished, "run"))
    file = folder / name
    whole = yaml.safe_load(file.read_text())
    write = yaml.safe_dump if name.endswith("yaml") else json.dumps
    places = changes(whole)
    step = max(1, len(places) // (12 if not os.environ.get("FAULTS_EXAMPLES") else len(places)))
    for number, place in enumerate(places[::step]):
        file.write_text(write(changed(whole, place, WRONG[number % len(WRONG)])))
        command(*(word.replace("RUN", "run") for word in COMMANDS[name]))


def test_nothing_is_written_through_a_link(finished: Path, tmp_path: Path) -> None:
    """A lock and the lines of a training that lead out of a run's folder leave what they lead to alone."""
    folder, outside = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "outside"
    for name in (".lock", "metrics.jsonl"):
        outside.write_text(OUTSIDE)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)
        code, shown = command("distill", "--resume", str(folder), "--quiet")
        assert outside.read_text() == OUTSIDE
        assert (code, "Can't write to" in shown) == ((2, True) if name == ".lock" else (0, False)), shown
        (folder / name).unlink()


ENTRIES = {
    "code": 5,
    "code ": {"a.py:f": 5},
    "teacher": 5,
    "world": [1],
    "student": 3,
    "out": 5,
    "quiet": "x",
    "options": [1],
    "run": 3,
    "versions": 3,
    "network": 5,
    "process": 5,
    "kind": {},
    "adapter": 5,
    "data": 5,
    "height": "x",
    "dtype": 3,
    "negative_prompt": 3,
    "validation_prompts": 5,
    "settings": [],
    "method": {},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_of_a_run_is_named_with_its_type(entry: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "run.yaml"
    entries = {"method": "cm", "world": "mixture", entry.strip(): ENTRIES[entry]}
    file.write_text(yaml.safe_dump(entries))
    assert main(["distill", "--config", str(file), "--quiet"]) == 2
    assert f"'{file}' can't be read: '{entry.strip()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["2024-99-99", "!!bool x", "!!int x", "!!float x", "!!timestamp x", "!!binary é", "1" * 5000, "&a [*a]"],
)
def test_yaml_whose_values_cannot_be_read(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        yaml_of(f"a: {text}")


def refusal(read: Callable[[Path], object], file: Path) -> str:
    with pytest.raises(StillhouseError) as caught:
        read(file)
    return str(caught.value)


@pytest.mark.parametrize("read", [text_of, bytes_of, json_of, tensors_of, metadata_of])
def test_the_reader_names_what_lies_there(read: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert refusal(read, file) == f"There is no file '{file}'."
    file.mkdir()
    assert "it is no file, but a folder, pipe or device" in refusal(read, file)
    file.rmdir()
    os.mkfifo(file)
    assert "it is no file, but a folder, pipe or device" in refusal(read, file)
    if read is not bytes_of:
        file.unlink()
        file.write_bytes(b"\xff")
        assert str(file) in refusal(read, file)


HEADERS = {
    "two_time": 3,
    "info": [],
    "process": 3,
    "kind": {"name": 3},
    "model": [],
    "call": "x",
    "own": {"class": 3},
}
INFO = {
    "shape": ["x"],
    "classes": "x",
    "samplings": [],
    "free_steps": 3,
    "world": 3,
    "companions": 3,
    "prompts": 3,
    "text": {"name": "words"},
    "tokenizer": {"name": "letters", "alphabet": 3},
    "recipe": 3,
    "code": 3,
}
WALKS = [
    {},
    {"legs": 3},
    {"legs": []},
    {"legs": [{"times": 3}]},
    {"legs": [{"times": [1, "x"]}]},
    {"times": [1, 0], "solver": 3},
    {"times": [1, 0], "size": [1]},
    {"times": [1, 0], "solver": {"name": "heun", "x": 1}},
    {"times": [1, 0], "hooks": [3]},
    {"times": [1, 0], "hooks": [{"name": "x"}]},
    {"times": [1, 0], "guidance": float("nan")},
]


WHICH = [*HEADERS, *(f"info.{name}" for name in INFO), *(f"walk {i}" for i in range(len(WALKS)))]


@pytest.mark.parametrize("which", WHICH)
def test_a_header_of_wrong_types(which: str, tmp_path: Path) -> None:
    model = load("mixture")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    about = json.loads(metadata_of(file)["stillhouse"])
    section, _, name = which.rpartition(".")
    if which.startswith("walk"):
        about["info"]["samplings"] = {"1": WALKS[int(which.split()[1])]}
    else:
        (about["info"] if section else about)[name] = INFO[name] if section else HEADERS[name]
    save_file(tensors_of(file), file, {"stillhouse": json.dumps(about)})
    with pytest.raises(StillhouseError, match="model.safetensors"):
        load(tmp_path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "kept"
    encode_prompts(["one", "two"], folder, Words(("one", "two")), show=False)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["index.json", "shard-00000.safetensors", "probe.safetensors"])
def test_a_spoilt_file_of_a_cache(name: str, fault: str, cache: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cache, tmp_path / "kept"))
    FAULTS[fault](folder / name)

    def read() -> None:
        kept = open_cache(folder)
        list(kept.notes())
        kept.read("", torch.tensor([0, 1]))

    sentence_of(read)
    sentence_of(lambda: encode_prompts(["one", "two"], folder, Words(("one", "two")), show=False))


@pytest.mark.parametrize("fault", FAULTS)
def test_spoilt_files_that_are_looked_at_alone(fault: str, tmp_path: Path, finished: Path) -> None:
    digests, rows, lines = tmp_path / "digests.json", tmp_path / "bank", tmp_path / "metrics.jsonl"
    digests.write_text('{"a": [1, 2, "x"]}')
    FAULTS[fault](digests)
    assert isinstance(Digests(tmp_path, digests).known, dict)

    made = {"x": torch.arange(4.0)}
    bank.fill(4, lambda *_: made, rows, show=False)
    shard = next(rows.iterdir())
    FAULTS[fault](shard)
    text = sentence_of(lambda: bank.fill(4, lambda *_: made, rows, show=False))
    assert not text or shard.name in text

    lines.write_text('{"step": 0, "loss": NaN}\n{"step": 1, "loss": 3}\n')
    FAULTS[fault](lines)
    sentence_of(lambda: journal.read(lines))

    step = Path(shutil.copytree(finished / "checkpoints" / "step-00000002", tmp_path / "step-00000002"))
    FAULTS[fault](step / "optimisers.safetensors")
    text = sentence_of(lambda: checkpoint.read(step))
    assert "is torn" in text or (fault == "unreadable" and not text)  # who runs as root reads everything


@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "unreadable" and not f.startswith("flipped")])
@pytest.mark.parametrize("name", ["pipeline-full/stillhouse.json", "pipeline-lora/stillhouse.json"])
def test_a_spoilt_description_of_a_student(name: str, fault: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(STUDENTS / Path(name).parent, tmp_path / "student"))
    FAULTS[fault](folder / "stillhouse.json")
    with pytest.raises(StillhouseError, match="stillhouse.json"):
        open_student(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("fault", [f for f in FAULTS if f != "unreadable" and not f.startswith("flipped")])
def test_a_spoilt_adapter(name: str, fault: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(STUDENTS / "pipeline-lora", tmp_path / "student"))
    FAULTS[fault](folder / name)
    with pytest.raises(StillhouseError, match=name):
        read_lora(folder, load("mixture").denoiser)
