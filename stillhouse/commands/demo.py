"""``stillhouse demo``: a real model distilled in five minutes."""

from __future__ import annotations

from pathlib import Path

from stillhouse.commands.parser import Parser


def demo(words: list[str]) -> int:
    """``stillhouse demo``"""
    parser = Parser("demo", "Distil a real model in five minutes and show teacher and student side by side.")
    parser.add_argument("--teacher", metavar="PATH", help="a teacher of your own [the shipped mnist one]")
    parser.add_argument("--out", metavar="DIR", default="runs/demo", help="folder of the result [runs/demo]")
    given = parser.parse(words)

    from stillhouse.report.demo import main

    main(Path(given.out), teacher=given.teacher)
    return 0
