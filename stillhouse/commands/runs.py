"""``stillhouse train`` and ``stillhouse distill``: a run from YAML and flags."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.commands.parser import Pairs, Parser, add_fields, add_world, sections
from stillhouse.core.errors import StillhouseError, require, unknown

if TYPE_CHECKING:
    from stillhouse.model import Model
    from stillhouse.train.method import Method

COMMON = ("command", "world", "options", "run", "out", "quiet", "versions")
ENTRIES = {
    "train": (*COMMON, "network", "process", "kind"),
    "distill": (*COMMON, "method", "teacher", "adapter", "data", "student"),
}


def train(words: list[str]) -> int:
    """``stillhouse train --world W …``"""
    from stillhouse.systems.training.denoising import Denoising

    parser = _parser("train", "Train a teacher from a world's data.")
    parser.add_argument(
        "--network",
        nargs="+",
        action=Pairs,
        metavar="KEY=VALUE",
        default=argparse.SUPPRESS,
        help="network, e.g. name=unet width=32",
    )
    parser.add_argument(
        "--process",
        default=argparse.SUPPRESS,
        help="how data becomes noise [default the world's: mostly flow]",
    )
    parser.add_argument(
        "--kind",
        default=argparse.SUPPRESS,
        help="what the network says: x0 eps score v velocity edm logits [default the world's: mostly "
        "velocity]",
    )
    _add_options(parser, Denoising, "training")
    config, out, resume, quiet = _config(parser.parse(words), "train")
    require(bool(config.get("world")), "Name a world to train in: --world mnist.")

    from stillhouse.api.runs import train_teacher

    options = _options(Denoising, config)
    given = {k: config[k] for k in ("process", "kind") if k in config}
    return _go(
        "train",
        out,
        lambda: train_teacher(
            config["world"], config.get("network"), out=out, resume=resume, quiet=quiet, **given, **options
        ),
    )


def distill(words: list[str]) -> int:
    """``stillhouse distill METHOD …``"""
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    config, resume = _peek(words)
    name = name or (config.get("method") or "")
    parser = _parser(
        f"distill {name or 'METHOD'}",
        "Make a student from a teacher. METHOD: a slug of `stillhouse systems`, or FILE.py[:CLASS].",
    )
    parser.add_argument(
        "--teacher",
        default=argparse.SUPPRESS,
        help="a Diffusers pipeline's or model's folder, a shipped name, hub:OWNER/NAME, exact, or "
        "exact:PROCESS [default the world's]",
    )
    parser.add_argument(
        "--data",
        default=argparse.SUPPRESS,
        help="folder of images, parquet or tar files, or a file of prompts; auto, world or none [auto: the "
        "world's if needed]",
    )
    parser.add_argument(
        "--adapter",
        metavar="FILE.py:CLASS",
        default=argparse.SUPPRESS,
        help="how a Diffusers pipeline of an unknown kind is read",
    )
    what = "network that the student is made from, e.g. width=64 [default the teacher]"
    parser.add_argument(
        "--student", nargs="+", action=Pairs, metavar="KEY=VALUE", default=argparse.SUPPRESS, help=what
    )
    if not name:
        parser.parse(words)  # shows the help if that was asked for
        raise StillhouseError("Name a method: stillhouse distill METHOD …; `stillhouse systems` lists them.")

    from stillhouse.systems.registry import find

    kind = find(name)
    _add_options(parser, kind, kind.__name__)
    config, out, resume, quiet = _config(parser.parse(words), "distill", {"method": name})
    require(
        bool(config.get("teacher") or config.get("world")),
        "Name a teacher or a world: --teacher mnist, or --world mixture.",
    )
    for entry in ("teacher", "data", "student"):
        kept = config.get(entry, "") is not None
        require(
            kept,
            f"The run in '{out}' was started from Python with its own {entry} in memory; resume it from "
            "there.",
        )

    from stillhouse.api.runs import distill as make

    options = _options(kind, config)
    given = {k: config[k] or None for k in ("world", "data", "student", "adapter") if k in config}
    return _go(
        "distill",
        out,
        lambda: make(
            config.get("teacher") or None, name, out=out, resume=resume, quiet=quiet, **given, **options
        ),
    )


def _parser(command: str, what: str) -> Parser:
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


def _add_options(parser: Parser, kind: type[Method], title: str) -> None:
    from stillhouse.api.options import RENAMED, explain, fields_of, run_fields
    from stillhouse.train.recipe import Recipe

    mine, recipe = fields_of(kind), fields_of(Recipe)
    add_fields(parser, f"options of {title}", "options", {n: (n, f) for n, f in mine.items()}, explain(kind))
    lines = {RENAMED.get(n, n): line for n, line in explain(Recipe).items()}
    flags = {flag: (RENAMED.get(n, n), recipe[n]) for flag, n in run_fields(mine).items()}
    add_fields(parser, "options of the run", "run", flags, lines)


def _peek(words: list[str]) -> tuple[dict[str, Any], bool]:
    """The entries of the run file that ``--config`` or ``--resume`` names, before the method, and so its
    flags, are known."""
    early = Parser("distill", "", add_help=False)
    early.add_argument("--config")
    early.add_argument("--resume")
    given, _ = early.parse_known_args(words)
    return _entries(given.config, given.resume, "distill"), bool(given.resume)


def _entries(config: str | None, resume: str | None, command: str) -> dict[str, Any]:
    if config is None and resume is None:
        return {}
    require(
        config is None or resume is None,
        "A resumed run has its own entries; give --resume or --config, not both.",
    )
    from stillhouse.api.options import read_yaml

    path = Path(config) if config else Path(resume or "") / "run.yaml"
    require(
        config is not None or path.is_file(),
        f"There is no run to resume in '{resume}': it holds no run.yaml.",
    )
    read = read_yaml(path)
    meant = read.get("command", command)
    require(meant == command, f"'{path}' describes a run of stillhouse {meant}, not of stillhouse {command}.")
    for entry in read:
        if entry not in ENTRIES[command]:
            raise unknown("entry of a run file", str(entry), ENTRIES[command])
    for section in ("options", "run"):
        require(
            isinstance(read.get(section) or {}, dict),
            f"The entry '{section}' of '{path}' holds names and values.",
        )
    return {k: v for k, v in read.items() if k not in ("command", "versions")}


def _config(
    given: argparse.Namespace, command: str, fixed: dict[str, Any] | None = None
) -> tuple[dict[str, Any], Path, bool, bool]:
    """Entries of the file with the flags over them; where the run goes, whether it is resumed, whether it is
    quiet."""
    flags = {**sections(given, ("options", "run")), **(fixed or {})}
    resume, file = flags.pop("resume", None), flags.pop("config", None)
    read = _entries(file, resume, command)
    config = {**read, **flags}
    for section in ("options", "run"):
        config[section] = {**(read.get(section) or {}), **flags.get(section, {})}
    quiet, out = bool(config.pop("quiet", False)), config.pop("out", None)
    require(resume is None or "out" not in flags, "A resumed run stays in its folder; leave --out away.")
    name = Path(str(config.get("method", "")).partition(":")[0]).stem or "teacher"
    return config, Path(resume or out or f"runs/{name}"), resume is not None, quiet


def _options(kind: type[Method], config: dict[str, Any]) -> dict[str, Any]:
    """The sections ``options`` and ``run`` as keywords, the run's under the names they have beside this
    method."""
    from stillhouse.api.options import RENAMED, fields_of, run_fields
    from stillhouse.core.spellings import current_options

    mine = fields_of(kind)
    flags = {RENAMED.get(n, n): flag for flag, n in run_fields(mine).items()}
    config["options"] = current_options(config["options"], mine)
    config["run"] = current_options(config["run"], flags)
    for name in config["options"]:
        if name not in mine:
            raise unknown(f"option of {kind.__name__} named", str(name), mine)
    for name in config["run"]:
        if name not in flags:
            raise unknown("run option", str(name), flags)
    return {**config["options"], **{flags[k]: v for k, v in config["run"].items()}}


def _go(command: str, out: Path, run: Any) -> int:
    from stillhouse.train.loop import Interrupted

    try:
        model: Model = run()
    except Interrupted as stop:
        print(
            f"stillhouse: {stop}\nGo on with: stillhouse {command} --resume {shlex.quote(str(out))}",
            file=sys.stderr,
        )
        return 130
    steps = ", ".join(map(str, model.samplings))
    print(f"{out / 'model'}: {model.parameters:,} weights, sampled in {steps} step(s)")
    print(f"Look at it: stillhouse sample {shlex.quote(str(out))}")
    return 0
