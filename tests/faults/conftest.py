"""The long form of these tests, and a count of what they tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MARKS = ("<!-- faults -->\n", "<!-- /faults -->")
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


class Tally:
    """How many faults of each kind were tried, and how many were borne."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.held: Counter[str] = Counter()

    @contextmanager
    def trial(self, kind: str) -> Iterator[None]:
        """One fault; what is raised inside is a failure."""
        self.tried[kind] += 1
        yield
        self.held[kind] += 1

    def table(self) -> str:
        """The figures in Markdown."""
        lines = ["| fault | tried | held | failed |", "|---|--:|--:|--:|"]
        for kind, tried in [*sorted(self.tried.items()), ("together", self.tried.total())]:
            held = self.held.total() if kind == "together" else self.held[kind]
            lines.append(f"| {kind} | {tried:,} | {held:,} | {tried - held:,} |")
        return "\n".join(lines) + "\n"


TALLY = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="every fault, and not a sample of each kind")
    parser.addoption("--figures", action="store_true", help="write the table of docs/reliability.md anew")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Tally()


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether every fault is tried."""
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    return request.config.stash.setdefault(TALLY, Tally())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    tally = config.stash.get(TALLY, Tally())
    if not config.getoption("--long", default=False) or not tally.tried:
        return
    terminalreporter.write_line("\n" + tally.table())
    if config.getoption("--figures"):
        text = PAGE.read_text("utf-8")
        head, rest = text.split(MARKS[0])
        PAGE.write_text(head + MARKS[0] + tally.table() + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")
