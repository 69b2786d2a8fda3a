"""What ``stillhouse train`` and ``stillhouse distill`` share: a run from a YAML file with flags over it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.commands.parser import Parser, add_fields, add_world, sections
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.processes import process_rank, require_processes

if TYPE_CHECKING:
    from stillhouse.model import Model


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
    system = entries.get("system") or entries.get("method")
    from stillhouse.api.trust import require_named
    from stillhouse.io.own import names_code

    if names_code(system):
        require_named({"system": system}, {}, command, _file_option(given.resume, given.config))
    return system or default


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
    from stillhouse.api.trust import code_in, from_cache, naming, require_named

    read = _entries(file, resume, command)
    if read:
        require_named(read, flags, command, _file_option(resume, file))
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

    from stillhouse.api.execute import Memory, execute, run_named
    from stillhouse.api.models import open_model
    from stillhouse.api.run import Run
    from stillhouse.io.own import failure, raised_in
    from stillhouse.train.loop import Interrupted

    run, memory, first = Run.from_entries({**entries, "out": out}), Memory(), process_rank() == 0
    run_named(run, memory)
    for name in ("teacher", "student"):
        if name not in flags and (cached := from_cache(source := getattr(run, name))):
            setattr(memory, name, open_model(source, run.adapter, **cached, **run.opening))
    try:
        quiet = not first or bool(entries.get("quiet", False))
        model = execute(run, memory, resume=resume is not None, quiet=quiet)
    except Interrupted as stop:
        if not first:
            return 130
        print(
            f"stillhouse: {stop}\nGo on with: stillhouse {command} --resume "
            f"{shlex.quote(str(out))}{naming(code_in(entries))}",
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        named = next((code for code in (run.teacher, run.network, run.data) if raised_in(error, code)), None)
        if named is None:
            raise
        raise StillhouseError(
            f"'{named}' fails: {failure(error, Path(str(named).rpartition(':')[0]))}."
        ) from error
    if not first:
        return 0
    steps = ", ".join(map(str, model.samplings))
    print(f"{out / 'model'}: {model.parameters:,} weights, sampled in {steps} step(s)")
    print("\n".join(next_steps(model, out, bool(run.world), command == "distill")))
    return 0


def next_steps(model: Model, out: Path, world: bool, teacher: bool) -> list[str]:
    """Where to look when a run has ended, a command a line.

    Arguments:
        model: what the run made.
        out: folder of the run.
        world: whether the run names one.
        teacher: whether there is one to measure the model beside.

    Returns:
        The lines; without a measurement for what is measured in a world alone.
    """
    from stillhouse import forms

    code = getattr(model, "code", "")  # of a network of the user's own
    folder, network = shlex.quote(str(out)), f" --network {shlex.quote(code)}" if code else ""
    lines = [f"Look at it: stillhouse sample {folder}{network}"]
    alone = forms.of(model).continuous and not model.cond_kind
    if world or model.world or alone:
        data = "" if world or model.world or teacher else " --data DIR"
        lines += [
            f"Measure it: stillhouse evaluate {folder}{network}{data}",
            f"The page:   stillhouse report {folder}",
        ]
    return lines


def _file_option(resume: str | None, config: str | None) -> str:
    """The words that name a run's file."""
    return f"--resume {shlex.quote(resume)}" if resume else f"--config {shlex.quote(str(config))}"


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
