"""What the tests of bad values share: odd values, and a call that may end well or in one sentence alone."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError

CPU_SECONDS = 30  # of one call; one that takes longer hangs
EXAMPLES = int(os.environ.get("FAULTS_EXAMPLES", 0))  # of each search; 0 for the short form

ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 2.5, -0.5, 1e308, 10**30, float("nan"), float("inf")),
    *("", "x", "exact", "mixture", ".", "\0", "a" * 5000, "x.py:y", "hub:", "1,2", "ü"),
    *(b"x", [], [1], ["x"], (), (1, 2), {}, {"x": 1}, {3: 4}, {"name": 5}, object(), Path("gone")),
    *(torch.zeros(2), torch.nn.Linear(2, 2)),
]
# the same for a command line, which can hold no zero byte
WORDS = [
    *("", "-", "--", "x", "0", "-1", "1", "2", "2.5", "nan", ".inf", "1e308", "1" * 30, "[", "{}", "{a: 1}"),
    *("a=b", "=", "x=", "null", "true", "1,2", ",", ".", "ü", "a" * 5000, "x.py:y", "!!bool x"),
    *("2024-99-99", "&a [*a]"),
]


class Hangs(Exception):
    """A call that takes more of the processor than any of this size."""


@contextlib.contextmanager
def limited(seconds: int = CPU_SECONDS) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hangs(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def sentence_of(call: Callable[[], object]) -> str:
    """The sentence in which a call from Python ends, empty for one that ends well; all else is raised."""
    try:
        with limited(), contextlib.redirect_stdout(io.StringIO()):
            call()
    except StillhouseError as error:
        text = str(error)
        assert text
        return text
    return ""


def command(*words: str) -> tuple[int, str]:
    """The exit code of a command line and what it wrote on the error channel; never a traceback."""
    err = io.StringIO()
    with limited(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = main(list(words))
    text = err.getvalue()
    assert code in (0, 1, 2) and "Traceback" not in text, text
    assert code != 2 or text.splitlines()[-1].startswith("stillhouse: "), text
    return code, text
