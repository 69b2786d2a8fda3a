"""The command line. Each command's module is imported only when it is asked for, so that ``--help`` answers
at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping, Sequence
from importlib import import_module

from stillhouse import __version__
from stillhouse.core.errors import StillhouseError, unknown

# command: its module below stillhouse.commands, and what it does
COMMANDS = {
    "systems": ("systems", "list the distillation methods"),
    "inspect": ("inspect", "describe a Diffusers pipeline or a data set as it was read"),
    "train": ("train", "train a model from data, without a teacher"),
    "distill": (
        "distill",
        "make a student from a teacher (distill METHOD --help lists the method's options)",
    ),
    "sample": ("sample", "draw samples of a model"),
    "evaluate": ("evaluate", "measure a model beside its teacher and the data"),
    "export": ("export", "write a sampler as one graph (ONNX, .pt2), or a checkpoint as a Diffusers folder"),
    "report": ("report", "write a run's HTML page"),
    "check": ("check", "measure the claims of systems"),
    "new": ("new", "write the skeleton of a system and of its check"),
    "demo": ("demo", "distil a real model in five minutes and show the result"),
}


def spin_less(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let torch's threads sleep after a thousand turns of waiting instead of spinning on; before torch loads.

    GNU OpenMP's own choice spins for milliseconds. On a machine that does anything else, a thread that spins
    keeps a core from the one that it waits for: an iteration then takes 8 to 50 times as long. What the user
    has set stays.

    Arguments:
        environment: of the process.
    """
    if not environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = "1000"


class Once(logging.Filter):
    """Lets each sentence through once, however many steps or samples give rise to it."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        key = record.name, record.getMessage()
        new = key not in self.shown
        self.shown.add(key)
        return new


def log_once() -> logging.Handler:
    """The handler of the command line's log."""
    handler = logging.StreamHandler()
    handler.addFilter(Once())
    return handler


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a claim does not hold, 2 a mistake in what was
    given, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    spin_less()
    logging.basicConfig(format="stillhouse: %(message)s", level=logging.WARNING, handlers=[log_once()])
    try:
        return _dispatch(words)
    except SystemExit as stop:  # argparse has shown its help
        return int(stop.code or 0)
    except StillhouseError as error:
        print(f"stillhouse: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        print(f"stillhouse: {where}{error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stillhouse: interrupted.", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"stillhouse {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    code: int = getattr(import_module(f"stillhouse.commands.{COMMANDS[name][0]}"), name)(words[1:])
    return code


def _help() -> str:
    lines = [f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: stillhouse COMMAND …",
            "",
            "Every way to distil a diffusion model, under one roof.",
            "",
            *lines,
            "",
            "More: stillhouse COMMAND --help.",
        ]
    )
