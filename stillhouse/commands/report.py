"""``stillhouse report RUN…``: one HTML page of runs."""

from __future__ import annotations

from pathlib import Path

from stillhouse.commands.parser import Parser, add_adapter, add_network, named_network
from stillhouse.core.errors import require


def report(words: list[str]) -> int:
    """``stillhouse report RUN…``"""
    parser = Parser(
        "report",
        "Write the page of one run or of several, compared by world: one HTML file that needs no network.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="runs' folders")
    parser.add_argument("--out", metavar="FILE", help="where to [report.html in the first]")
    parser.add_argument(
        "--teacher", metavar="FILE.py:FUNCTION", help="the runs' teacher, where it is your own code"
    )
    add_network(parser, "the runs' folders hold the weights of")
    add_adapter(parser)
    given = parser.parse(words)
    for run in given.runs:
        require(Path(run).is_dir(), f"There is no run's folder '{run}'.")

    from stillhouse.report.page import write_report
    from stillhouse.report.view import view_of_folder

    out = Path(given.out or Path(given.runs[0]) / "report.html")
    code = {"teacher": given.teacher, "network": named_network(given), "adapter": given.adapter}
    views = [view_of_folder(run, **code) for run in given.runs]
    print(write_report(views, out))
    return 0
