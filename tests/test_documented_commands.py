"""Every command that the documentation prints is read by the parser it is for; what is cheap runs, in small,
in the order of its page."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import tomllib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse import cli
from stillhouse.api.options import build_recipe
from stillhouse.api.system import system_of
from stillhouse.commands.parser import Parser, sections

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
# what stands for a name of the reader's
NAMES = {"SYSTEM": "mine", "F": "solver", "K": "method", "SLUG": "cm", "W": "mnist", "MODEL": "mnist"}


def fenced(page: Path) -> list[str]:
    """Commands of a page's blocks, one a line, without their remarks."""
    blocks = [text for language, text in FENCE.findall(page.read_text()) if language in ("", "bash")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def inline(page: Path) -> list[str]:
    """Commands within a page's sentences, those that are more than a name and less than a sketch."""
    found = re.findall(r"`(stillhouse [^`]+)`", FENCE.sub("", page.read_text()))
    return [line for line in found if len(line.split()) > 2 and "…" not in line]


COMMANDS = [
    pytest.param(page, line, id=f"{page.name}: {line[:60]}")
    for page in PAGES
    for line in dict.fromkeys([*fenced(page), *inline(page)])
]


class Read(Exception):
    """The words of a command have been read."""

    def __init__(self, given: Namespace):
        super().__init__()
        self.given = given


def words_of(line: str) -> list[str]:
    """A line as a shell passes it on, names of the reader's filled in, settings of the environment left
    out."""
    words = [NAMES.get(word, word) for word in shlex.split(line, comments=True)]
    return words[next(i for i, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=\S*", word)) :]


def launched(words: list[str]) -> list[str]:
    """What a launcher of several processes starts, read by its own parser."""
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words[1:])
    else:
        from accelerate.commands.launch import launch_command_parser

        assert words[:2] == ["accelerate", "launch"]
        given = launch_command_parser().parse_args(words[2:])
    assert given.module
    return [given.training_script, *given.training_script_args]


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end once their words have been read."""
    read = Parser.parse

    def parse(self: Parser, words: list[str]) -> Namespace:
        raise Read(read(self, words))

    monkeypatch.setattr(Parser, "parse", parse)


@pytest.fixture
def method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the file that write-a-method.md has its readers write."""
    python = re.search(r"^```python\n(.*?)^```", (ROOT / "docs/write-a-method.md").read_text(), re.S | re.M)
    assert python
    (tmp_path / "endpoints.py").write_text(python[1])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_printed_command_is_read(page: Path, line: str, reading: None, method: None) -> None:
    words = words_of(line)
    if words[0] in ("torchrun", "accelerate"):
        words = launched(words)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", line)))) <= set(extras)
    elif words[0] == "python":
        assert words[1] == "-m" and importlib.util.find_spec(words[2])
    elif words[0] == "pytest":
        assert not [word for word in words[1:] if "/" in word and not (ROOT / word).exists()]
    elif words[0] == "stillhouse" and "--help" in words:
        assert cli.main(words[1:]) == 0
    else:
        assert words[0] == "stillhouse"
        with pytest.raises(Read) as read:
            cli._dispatch(words[1:])
        if words[1] in ("train", "distill"):
            given = sections(read.value.given, ("options", "run"))
            system = words[2] if len(words) > 2 and not words[2].startswith("-") else "denoising"
            assert system_of(system, given.get("options", {}))
            assert build_recipe(given.get("run", {}))


# -- what runs -------------------------------------------------------------------------------------
SMALL = {
    "distill": {"--iterations": "2", "--batch": "4", "--lora": "2", "--save-every": "1"},
    "sample": {"-n": "2"},
}
PER_COMMAND = {"distill": ("--iterations", "--batch"), "sample": ("-n",)}
# page: commands of its blocks that run, by their beginnings
CHEAP = {
    "README.md": ("stillhouse distill dmd2", "stillhouse sample runs/turbo"),
    "docs/tasks/resume.md": ("stillhouse",),
    "docs/tasks/few-step-lora.md": ("stillhouse",),
    "docs/write-a-method.md": ("stillhouse",),
    "docs/diffusers.md": ("stillhouse inspect ./my-sdxl", "stillhouse distill", "stillhouse sample"),
    "docs/language.md": ("stillhouse sample text",),
    "docs/control.md": ("stillhouse distill onedp --teacher control", "stillhouse sample"),
    "docs/score-3d.md": ("stillhouse distill", "stillhouse sample runs/object --out turn.gif"),
}


def in_small(words: list[str]) -> list[str]:
    """A command with few iterations, rows and ranks."""
    command, made = words[0], list(words)
    if "--resume" in made:
        return made
    for flag, value in SMALL.get(command, {}).items():
        if flag in made:
            made[made.index(flag) + 1] = value
        elif flag in PER_COMMAND[command]:
            made += [flag, value]
    return made


@pytest.fixture
def things(method: None) -> Iterator[None]:
    """What the readers of the pages have: pipelines and pictures."""
    from stillhouse.io.pipelines import tiny
    from stillhouse.worlds.shapes.world import write_folder

    tiny.build("sd", "my-sd")
    tiny.build("sdxl", "my-sdxl")
    write_folder("my-pictures", 8)
    shutil.copytree("my-pictures", "pictures")
    yield


@pytest.mark.parametrize("page", CHEAP)
def test_the_commands_of_a_page_run(page: str, things: None, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for line in fenced(ROOT / page):
        if not line.startswith(CHEAP[page]) or "--help" in line:
            continue
        words = in_small(words_of(line)[1:])
        out = words[words.index("--out") + 1] if "--out" in words else ""
        if words[0] == "distill" and Path(out).is_dir() and out:
            shutil.rmtree(out)  # the next way to make it
        assert cli.main(words) == 0, f"{line}\n{capsys.readouterr().err[-2000:]}"
        assert not out or Path(out).exists(), line
        ran += 1
    assert ran >= 1
