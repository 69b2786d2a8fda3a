"""A process is killed at any of its file operations; then the same command, or a resume, ends with what an
uninterrupted one makes, to the bit, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.killer import Server
from tests.faults.scenes import SLUGS

STAGES = (*SLUGS, "lora", "evaluate", "report", "export", "sample", "again", "pipeline")
QUICK = ("slimflow", "lora", "oss", "evaluate", "pipeline")  # in the short form
FEW = 5  # kills of each in the short form
TIMED = ("seconds", "ms", "per_second", "time", "speed_up")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("killer"))
    yield made
    made.close()


def untimed(value: Any) -> Any:
    """Plain data without what a clock measured."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not any(word in k for word in TIMED)}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def content(path: Path) -> str:
    """What must be equal of a file."""
    if path.is_symlink():
        return f"link to {path.readlink()}"
    blob = path.read_bytes()
    if path.suffix == ".jsonl":
        blob = repr([untimed(json.loads(line)) for line in blob.splitlines()]).encode()
    if path.suffix == ".json":
        blob = repr(untimed(json.loads(blob))).encode()
    return "" if path.suffix in (".html", ".pt2") else hashlib.sha256(blob).hexdigest()


def tree(place: Path) -> dict[str, str]:
    """Every file below a folder, and what it holds."""
    return {
        str(path.relative_to(place)): content(path) if path.is_symlink() or path.is_file() else "folder"
        for path in sorted(place.rglob("*"))
    }


@pytest.mark.timeout(36000)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_file_operation(stage, server, tally, long, tmp_path):
    if not long and stage not in QUICK:
        pytest.skip("of the long form")
    place = tmp_path / "place"  # one name for all: some files hold it
    end, text, *_ = server.trial(stage, place)
    assert end == 0, text
    operations, whole = json.loads(text), tree(place)
    points = [(at, torn) for at, kind in enumerate(operations) for torn in (False, kind in ("open", "row"))]
    points = list(dict.fromkeys(points))
    assert len(points) >= FEW
    failed = []
    for at, torn in points if long else random.Random(stage).sample(points, FEW):
        shutil.rmtree(place)
        try:
            with tally.trial(f"kill: {stage}"):
                end, text, after, error = server.trial(stage, place, at, torn=torn)
                assert end == signal.SIGKILL, text
                assert after == 0, error
                found = tree(place)
                extra, lost = sorted(found.keys() - whole.keys()), sorted(whole.keys() - found.keys())
                assert not extra, f"left: {extra}"
                assert not lost, f"missing: {lost}"
                other = [name for name in whole if found[name] != whole[name]]
                assert not other, f"differ: {other}"
        except AssertionError as error:
            failed.append(f"{'half of ' if torn else ''}{operations[at]} {at}: {str(error)[-400:]}")
            print(failed[-1], flush=True)
    assert not failed, "\n".join([f"{len(failed)} of {len(points)}", *failed])
