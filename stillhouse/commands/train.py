"""``stillhouse train``: a run of a system without a teacher."""

from __future__ import annotations

import argparse
from typing import Any

from stillhouse.api.options import pairs
from stillhouse.commands.parser import Pairs
from stillhouse.commands.running import add_options, named_system, run_parser, start
from stillhouse.core.errors import require


class PairsOrCode(Pairs):
    """``KEY=VALUE …`` as a dictionary, or the name of code."""

    def read(self, words: list[str], flag: str) -> Any:
        """The words that follow the option ``flag``: a dictionary, or ``FILE.py:FUNCTION``."""
        code = len(words) == 1 and "=" not in words[0] and ".py" in words[0]
        return words[0] if code else pairs(words, flag)


def train(words: list[str]) -> int:
    """``stillhouse train [SYSTEM] --world W | --data D …``"""
    name = named_system(words, "train", "denoising")
    parser = run_parser(
        f"train {name}" if name != "denoising" else "train",
        "Train a model from data alone. SYSTEM: one that needs no teacher, by its slug or as FILE.py[:CLASS] "
        "[default denoising].",
    )
    parser.add_argument(
        "--network",
        nargs="+",
        action=PairsOrCode,
        metavar="KEY=VALUE",
        default=argparse.SUPPRESS,
        help="network, e.g. name=unet width=32; or your own code, FILE.py:FUNCTION",
    )
    parser.add_argument(
        "--process",
        default=argparse.SUPPRESS,
        help="how data becomes noise [default the world's: mostly flow]",
    )
    parser.add_argument(
        "--kind",
        default=argparse.SUPPRESS,
        help="what the network predicts: x0 eps score v velocity edm logits [default the world's: mostly "
        "velocity]",
    )
    parser.add_argument(
        "--data",
        default=argparse.SUPPRESS,
        help="folder of images, parquet or tar files, whose first image gives the size where no world "
        "does; or "
        "your own code, FILE.py:FUNCTION",
    )

    from stillhouse.api.system import right_command, system_class

    kind = system_class(name)
    right_command("train", kind, name)
    add_options(parser, kind, "training" if name == "denoising" else kind.__name__)
    return start(words, parser, "train", name, _check)


def _check(entries: dict[str, Any], out: str) -> None:
    require(
        entries.get("network", {}) is not None,
        f"The run in '{out}' was started from Python with its own network in memory; resume it from there.",
    )
    data = entries.get("data", "auto")
    require(
        data is not None,
        f"The run in '{out}' was started from Python with its own data in memory; resume it from there.",
    )
    require(
        bool(entries.get("world")) or data not in ("auto", "world", "none"),
        "Name a world to train in: --world mnist, or --data with a folder of images.",
    )
