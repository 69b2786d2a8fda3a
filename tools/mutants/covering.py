"""Which tests run which lines: recorded test by test, and kept until a file of them changes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tools.mutants.forked import LIBRARIES, QUIET, Job, run_all, share
from tools.mutants.slips import Mutant

KEPT = Path("build/mutants")
LIMIT = 1800.0  # seconds for the tests of one file


@dataclass
class Covered:
    """A test: how long it takes, and the lines it runs of each file, as bits."""

    seconds: float
    lines: dict[str, int] = field(default_factory=dict)

    def runs(self, mutant: Mutant) -> bool:
        """Whether it runs a line of the mutant; of one outside functions any line of its file."""
        mask = self.lines.get(mutant.file, 0)
        return bool(mask >> mutant.lines.start & (1 << len(mutant.lines)) - 1 if mutant.inside else mask)


class Recorder:
    """A plugin of pytest that records the lines of Stillhouse that each test runs."""

    def __init__(self, root: Path):
        self.folder = str(root / "stillhouse") + os.sep
        self.cut = len(str(root)) + 1
        self.hits: dict[str, set[int]] = defaultdict(set)
        self.tests: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        self.skipped: set[str] = set()

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        return self.line if frame.f_code.co_filename.startswith(self.folder) else None

    def line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.hits[frame.f_code.co_filename].add(frame.f_lineno)
        return self.line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self.hits = defaultdict(set)
        start = time.perf_counter()
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            lines = {file[self.cut :]: hex(sum(1 << n for n in hit)) for file, hit in self.hits.items()}
            self.tests[item.nodeid] = {"seconds": time.perf_counter() - start, "lines": lines}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)[-2000:]
        if report.skipped:
            self.skipped.add(report.nodeid)


def coverage(
    files: Sequence[str], root: Path, at_once: int, scratch: Path
) -> tuple[dict[str, Covered], dict[str, str]]:
    """The tests of ``files`` with the lines they run; those of files that changed, or that run changed
    sources, are run anew. The libraries that they import are shared by forks from here on.

    Arguments:
        files: test files, from the root.
        root: the tree.
        at_once: how many files at a time.
        scratch: an empty folder.

    Returns:
        Tests that pass, by id, and those that do not, with what was printed.
    """
    digests: dict[str, str] = {}
    kept = {file: _read(root, file, digests) for file in files}
    anew = [file for file, found in kept.items() if found is None]
    for done, (job, status, folder) in enumerate(run_all((_job(root, f) for f in anew), at_once, scratch), 1):
        result = folder / "result.json"
        if result.is_file():
            made = json.loads(result.read_text())
            sources = {name for test in made["tests"].values() for name in test["lines"]}
            made["digests"] = {
                name: _digest(root, name, digests) for name in sorted({*sources, *_own(root, job.key)})
            }
            place = _place(root, job.key)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(f".{os.getpid()}").write_text(json.dumps(made))
            place.with_suffix(f".{os.getpid()}").replace(place)
        else:
            tail = (folder / "output").read_text(errors="replace")[-1000:]
            made = {
                "tests": {},
                "libraries": [],
                "failed": {job.key: f"Its tests ended with status {status}. {tail}"},
            }
        kept[job.key] = made
        print(f"coverage {done}/{len(anew)}: {job.key}", file=sys.stderr, flush=True)
    share(sorted({name for made in kept.values() if made for name in made["libraries"]}))
    tests: dict[str, Covered] = {}
    failed: dict[str, str] = {}
    for made in kept.values():
        assert made is not None
        failed |= made["failed"]
        for name, test in made["tests"].items():
            lines = {file: int(mask, 16) for file, mask in test["lines"].items()}
            tests[name] = Covered(test["seconds"], lines)
    return tests, failed


def covering(mutant: Mutant, tests: dict[str, Covered], budget: float) -> list[str]:
    """The tests of a mutant: those that run its line, in the folder that mirrors its own first; then the rest
    of their files, since what one test made (a fixture of the module, a cache) another may look at.

    Arguments:
        mutant: one slip.
        tests: those there are, with their lines.
        budget: seconds that all may take together but those of the own folder that run the line.

    Returns:
        Ids of tests, in the order they are to run, the quickest of each sort first; none where none runs it.
    """
    mirrored = str(Path("tests", *Path(mutant.file).parts[1:-1]))
    runs = {name for name, test in tests.items() if test.runs(mutant)}
    files = {_file(name) for name in runs}

    def order(name: str) -> tuple[bool, bool, float, str]:
        other = str(Path(_file(name)).parent) != mirrored
        return other, name not in runs, tests[name].seconds, name

    chosen: list[str] = []
    spent = 0.0
    for other, beside, seconds, name in sorted(order(name) for name in tests if _file(name) in files):
        own = not other and not beside
        spent += 0.0 if own else seconds
        if own or spent <= budget or not chosen:
            chosen.append(name)
    return chosen


def _file(test: str) -> str:
    return test.partition("::")[0]


def test_files(root: Path, paths: Iterable[str]) -> list[str]:
    """The test files among paths of files and folders, from the root."""
    found = []
    for path in paths:
        at = root / path
        files = sorted(at.rglob("test_*.py")) if at.is_dir() else [at]
        found += [str(file.relative_to(root)) for file in files]
    return list(dict.fromkeys(found))


def _job(root: Path, file: str) -> Job:
    def work(folder: Path) -> int:
        recorder = Recorder(root)
        words = [*QUIET, f"--basetemp={folder / 'tmp'}", file]
        status = int(pytest.main(words, plugins=[recorder]))
        if status in (0, 1, 5):
            left_out = {*recorder.failed, *recorder.skipped}
            made = {
                "tests": {name: test for name, test in recorder.tests.items() if name not in left_out},
                "failed": recorder.failed,
                "libraries": [name for name in LIBRARIES if name in sys.modules],
            }
            (folder / "result.json").write_text(json.dumps(made))
        return status

    return Job(file, work, LIMIT)


def _place(root: Path, file: str) -> Path:
    return root / KEPT / "coverage" / (file.removesuffix(".py").replace("/", ".") + ".json")


def _read(root: Path, file: str, digests: dict[str, str]) -> dict[str, Any] | None:
    """What was kept of a test file, if nothing of it has changed and all its tests passed."""
    place = _place(root, file)
    if not place.is_file():
        return None
    made: dict[str, Any] = json.loads(place.read_text())
    same = all(_digest(root, name, digests) == digest for name, digest in made["digests"].items())
    return made if same and not made["failed"] else None


def _own(root: Path, file: str) -> list[str]:
    """A test file, and the helpers that stand beside it or above."""
    own = [file]
    for folder in Path(file).parents:
        own += [
            str(p.relative_to(root)) for p in (root / folder).glob("*.py") if not p.name.startswith("test_")
        ]
        if str(folder) == "tests":
            break
    return own


def _digest(root: Path, name: str, known: dict[str, str]) -> str:
    if name not in known:
        path = root / name
        known[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
    return known[name]
