"""``stillhouse report RUN…``: one HTML page of runs."""

from __future__ import annotations

from pathlib import Path

from stillhouse.commands.parser import Parser
from stillhouse.core.errors import require


def report(words: list[str]) -> int:
    """``stillhouse report RUN…``"""
    parser = Parser(
        "report",
        "Write the page of one run or of several, compared by world: one HTML file that needs no network.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="runs' folders")
    parser.add_argument("--out", metavar="FILE", help="where to [report.html in the first]")
    given = parser.parse(words)
    for run in given.runs:
        require(Path(run).is_dir(), f"There is no run's folder '{run}'.")

    from stillhouse.report.page import write_report

    print(write_report(given.runs, Path(given.out or Path(given.runs[0]) / "report.html")))
    return 0
