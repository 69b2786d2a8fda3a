"""``stillhouse distill``: a run of a system that has a teacher."""

from __future__ import annotations

import argparse
from collections.abc import Container
from typing import Any

from stillhouse.commands.parser import Pairs, Parser, add_dtype, add_network
from stillhouse.commands.running import add_options, named_system, run_parser, start
from stillhouse.core.errors import StillhouseError, require


def distill(words: list[str]) -> int:
    """``stillhouse distill SYSTEM …``"""
    name = named_system(words, "distill")
    parser = run_parser(
        f"distill {name or 'SYSTEM'}",
        "Make a student from a teacher. SYSTEM: a slug of `stillhouse systems`, or FILE.py[:CLASS]; with "
        "--teacher "
        "and no SYSTEM this help names those that can run on it.",
    )
    parser.add_argument(
        "--teacher",
        default=argparse.SUPPRESS,
        help="a Diffusers pipeline's or model's folder, a shipped name, hub:OWNER/NAME, exact, "
        "exact:PROCESS, "
        "or your own code, FILE.py:FUNCTION [default the world's]",
    )
    parser.add_argument(
        "--data",
        default=argparse.SUPPRESS,
        help="folder of images, parquet or tar files, a file of prompts, or your own code, FILE.py:FUNCTION; "
        "auto, world or none [auto: the world's if needed]",
    )
    add_network(parser, "the teacher's folder holds the weights of")
    parser.add_argument(
        "--adapter",
        metavar="FILE.py:CLASS",
        default=argparse.SUPPRESS,
        help="how a Diffusers pipeline of an unknown kind is read",
    )
    parser.add_argument(
        "--negative-prompt",
        metavar="TEXT",
        default=argparse.SUPPRESS,
        help="what the teacher is guided away from, in the place of the empty prompt; '' for none [default "
        "the system's own, mostly none]",
    )
    parser.add_argument(
        "--validation-prompts",
        nargs="+",
        metavar="FILE_OR_TEXT",
        default=argparse.SUPPRESS,
        help="prompts that the student is sampled with now and then, into the run's folder",
    )
    what = "network that the student is made from, e.g. width=64 [default the teacher]"
    parser.add_argument(
        "--student", nargs="+", action=Pairs, metavar="KEY=VALUE", default=argparse.SUPPRESS, help=what
    )
    parser.add_argument(
        "--student-model",
        dest="student",
        metavar="MODEL",
        default=argparse.SUPPRESS,
        help="the student that an operation needs: a folder of a run or of a model",
    )
    parser.epilog = (
        "With a Diffusers pipeline for a teacher, options that are not given have the values that the system "
        "was published with for its family, printed at the start with their source."
    )
    if not name:
        parser.epilog = _offered(words)
        parser.parse(words)  # shows the help with --help
        raise StillhouseError(f"Name a method: stillhouse distill METHOD …; {parser.epilog}")

    from stillhouse.api.options import fields_of
    from stillhouse.api.system import right_command, system_class

    kind = system_class(name)
    right_command("distill", kind, name)
    _add_opening(parser, fields_of(kind))
    add_options(parser, kind, kind.__name__)
    return start(words, parser, "distill", name, _check)


def _offered(words: list[str]) -> str:
    """The systems that can run on the teacher among the words, or where to read of them."""
    early = Parser("distill", "", add_help=False)
    early.add_argument("--teacher")
    early.add_argument("--network")
    given, _ = early.parse_known_args(words)
    if not given.teacher or given.teacher.partition(":")[0] == "exact":
        return "`stillhouse systems` lists them, `stillhouse inspect MODEL` those that can run on yours."
    from stillhouse.api.models import named_model
    from stillhouse.api.offers import offers

    found = ", ".join(offer.phrase for offer in offers(named_model(given.teacher, given.network)))
    return f"on {given.teacher} these can run: {found or 'none'}."


def _add_opening(parser: Parser, taken: Container[str]) -> None:
    """How a Diffusers pipeline is opened; a system's option of the same name is the system's."""
    group = parser.add_argument_group("of a teacher that is a Diffusers pipeline")
    lines = {"height": "pixels of the pictures", "width": "likewise", "frames": "of the clips"}
    for name, line in lines.items():
        if name not in taken:
            flag, shown = f"--{name}", f"{line} [its own]"
            group.add_argument(flag, type=int, metavar="N", default=argparse.SUPPRESS, help=shown)
    add_dtype(group, "the frozen weights (what learns is fp32)")


def _check(entries: dict[str, Any], out: str) -> None:
    require(
        bool(entries.get("teacher") or entries.get("world")),
        "Name a teacher or a world: --teacher mnist, or --world mixture.",
    )
    for entry in ("teacher", "network", "data", "student"):
        kept = entries.get(entry, "") is not None
        require(
            kept,
            f"The run in '{out}' was started from Python with its own {entry} in memory; resume it from "
            "there.",
        )
