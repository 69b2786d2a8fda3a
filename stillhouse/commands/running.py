"""What ``stillhouse train`` and ``stillhouse distill`` share: a run from a YAML file with flags over it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillhouse.commands.parser import Parser, add_fields, add_world, sections
from stillhouse.core.errors import require
from stillhouse.train.processes import is_first, process_count, require_processes


def run_parser(command: str, what: str) -> Parser:
    parser = Parser(command, what)
    parser.add_argument(
        "--config",
        metavar="YAML",
        default=argparse.SUPPRESS,
        help="entries of a run, which the flags here override",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder of the run; must be new or empty [default runs/NAME]",
    )
    parser.add_argument(
        "--resume",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="go on with the run in this folder; nothing else is needed",
    )
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress bar")
    add_world(parser, "world of data and networks, e.g. mixture layout=moons")
    return parser


def named_system(words: list[str], command: str, default: str = "") -> str:
    """The system that ``words`` begin with (and which is taken from them), or that of the file which
    ``--config`` or ``--resume`` names: its flags must be known before the others are read."""
    if words and not words[0].startswith("-"):
        return words.pop(0)
    early = Parser(command, "", add_help=False)
    early.add_argument("--config")
    early.add_argument("--resume")
    given, _ = early.parse_known_args(words)
    entries = _entries(given.config, given.resume, command)
    return entries.get("system") or entries.get("method") or default


def add_options(parser: Parser, kind: type[Any], title: str) -> None:
    from stillhouse.api.options import RENAMED, explain, fields_of, run_fields
    from stillhouse.train.recipe import Recipe

    mine, recipe = fields_of(kind), fields_of(Recipe)
    add_fields(parser, f"options of {title}", "options", {n: (n, f) for n, f in mine.items()}, explain(kind))
    lines = {RENAMED.get(n, n): line for n, line in explain(Recipe).items()}
    flags = {flag: (RENAMED.get(n, n), recipe[n]) for flag, n in run_fields(mine).items()}
    add_fields(parser, "options of the run", "run", flags, lines)


def start(
    words: list[str], parser: Parser, command: str, system: str, check: Callable[[dict[str, Any], str], None]
) -> int:
    """Run what the file and the flags describe.

    Arguments:
        words: of the command line, after the system.
        parser: with all flags.
        command: ``train`` or ``distill``.
        system: its name.
        check: refuses entries, given with the run's folder, that the command can't start from.

    Returns:
        The exit code.
    """
    flags = {**sections(parser.parse(words), ("options", "run")), "system": system}
    resume, file = flags.pop("resume", None), flags.pop("config", None)
    read = _entries(file, resume, command)
    entries = {**read, **flags, "command": command}
    for section in ("options", "run"):
        entries[section] = {**(read.get(section) or {}), **flags.get(section, {})}
    require(resume is None or "out" not in flags, "A resumed run stays in its folder; leave --out away.")
    default = (
        "teacher" if command == "train" and system == "denoising" else Path(system.partition(":")[0]).stem
    )
    out = Path(resume or entries.get("out") or f"runs/{default}")
    check(entries, str(out))

    require_processes()  # before anything is read or encoded

    from stillhouse.api.execute import execute
    from stillhouse.api.run import Run
    from stillhouse.train.loop import Interrupted

    run, first = Run.from_entries({**entries, "out": out}), is_first()
    if first and process_count() > 1:
        print(f"{process_count()} processes")
    try:
        model = execute(run, resume=resume is not None, quiet=not first or bool(entries.get("quiet", False)))
    except Interrupted as stop:
        if not first:
            return 130
        print(
            f"stillhouse: {stop}\nGo on with: stillhouse {command} --resume {shlex.quote(str(out))}",
            file=sys.stderr,
        )
        return 130
    if not first:
        return 0
    steps = ", ".join(map(str, model.samplings))
    print(f"{out / 'model'}: {model.parameters:,} weights, sampled in {steps} step(s)")
    print(f"Look at it: stillhouse sample {shlex.quote(str(out))}")
    return 0


def _entries(config: str | None, resume: str | None, command: str) -> dict[str, Any]:
    """The entries of the file that ``--config`` or ``--resume`` names; empty without one."""
    if config is None and resume is None:
        return {}
    require(
        config is None or resume is None,
        "A resumed run has its own entries; give --resume or --config, not both.",
    )
    from stillhouse.api.run import CONFIG, read_entries

    path = Path(config) if config else Path(resume or "") / CONFIG
    require(
        config is not None or path.is_file(),
        f"There is no run to resume in '{resume}': it holds no {CONFIG}.",
    )
    return read_entries(path, command)
