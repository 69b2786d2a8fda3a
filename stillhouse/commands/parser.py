"""Words of the command line as values, with mistakes reported in one sentence."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, NoReturn

from stillhouse.api.options import default_of, pairs
from stillhouse.core.errors import StillhouseError
from stillhouse.core.spellings import current_option


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`StillhouseError`, and names the nearest option for one that is
    unknown."""

    def __init__(self, command: str, what: str, **kwargs: Any):
        super().__init__(prog=f"stillhouse {command}", description=what, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ").rstrip(".")
        raise StillhouseError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")

    def parse(self, words: list[str]) -> argparse.Namespace:
        """The values of ``words``, all of which must be known."""
        known, extra = self.parse_known_args([self._current(word) for word in words])
        if extra:
            flag = next((w for w in extra if w.startswith("-")), extra[0]).partition("=")[0]
            near = (
                difflib.get_close_matches(flag, list(self._option_string_actions), n=1, cutoff=0.5)
                if flag.startswith("-")
                else []
            )
            hint = f"did you mean '{near[0]}'?" if near else f"see {self.prog} --help."
            raise StillhouseError(f"There is no option '{flag}' of {self.prog}; {hint}")
        return known

    def _current(self, word: str) -> str:
        """A flag as it is spelled now, with one line where it was once spelled otherwise."""
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            return word
        known = {option.removeprefix("--").replace("-", "_") for option in self._option_string_actions}
        new = "--" + current_option(flag[2:].replace("-", "_"), known).replace("_", "-")
        if new == flag:
            return word
        print(f"stillhouse: the option {flag} is called {new} now.", file=sys.stderr)
        return new + equals + value


def numbers(text: str, flag: str) -> list[int]:
    """Whole numbers with commas between them.

    Arguments:
        text: as "1,2,5", may be empty.
        flag: the option that they were given for, named in the error's sentence.

    Returns:
        The numbers.
    """
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise StillhouseError(
            f"{flag} takes whole numbers with commas between them, not '{text}'."
        ) from error


def run_entries(folder: str | Path) -> dict[str, Any]:
    """The entries of a run's YAML, none for a folder that is no run's."""
    path = Path(folder) / "run.yaml"
    if not path.is_file():
        return {}
    from stillhouse.api.run import recorded_entries

    return recorded_entries(path)


class Pairs(argparse.Action):
    """``KEY=VALUE …`` as a dictionary."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, self.read(values, option_string or self.dest))

    def read(self, words: list[str], flag: str) -> dict[str, Any]:
        """The words that follow the option ``flag``, as a dictionary."""
        return pairs(words, flag)


class WorldWords(Pairs):
    """``NAME KEY=VALUE …`` as a world's configuration."""

    def read(self, words: list[str], flag: str) -> dict[str, Any]:
        return {**pairs(words[1:], "--world NAME"), "name": words[0]}


def add_world(parser: argparse._ActionsContainer, what: str) -> None:
    """The option ``--world NAME [KEY=VALUE …]``."""
    parser.add_argument(
        "--world",
        nargs="+",
        action=WorldWords,
        metavar=("NAME", "KEY=VALUE"),
        default=argparse.SUPPRESS,
        help=what,
    )


def add_opening(parser: argparse._ActionsContainer) -> None:
    """How a file of a Diffusers model is opened: its configuration, what it predicts, an adapter class."""
    add_adapter(parser)
    parser.add_argument(
        "--config", metavar="DIR", help="a folder of the same kind of pipeline, for a single-file checkpoint"
    )
    parser.add_argument(
        "--prediction",
        choices=("eps", "v", "x0"),
        help="what its network predicts [as the pipeline or the file has it]",
    )
    parser.add_argument(
        "--zero-snr",
        action=argparse.BooleanOptionalAction,
        help="whether its table of noise levels ends at zero SNR [likewise]",
    )
    add_dtype(parser)


def add_adapter(parser: argparse._ActionsContainer) -> None:
    """The option ``--adapter``, the code that reads a Diffusers pipeline of an unknown kind."""
    parser.add_argument(
        "--adapter",
        metavar="FILE.py:CLASS",
        help="a Family of your own, which reads a pipeline",
    )


def add_dtype(parser: argparse._ActionsContainer, of: str = "its weights") -> None:
    """The option ``--dtype``, which a Diffusers pipeline is opened in."""
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        default=argparse.SUPPRESS,
        help=f"of {of}, where it is a Diffusers pipeline [as its files have them]",
    )


def opening(given: argparse.Namespace, *more: str) -> dict[str, Any]:
    """The options of :func:`add_opening` that were given.

    Arguments:
        given: as parsed.
        more: names of further ones.

    Returns:
        Keywords of :func:`stillhouse.load`.
    """
    names = ("adapter", "config", "prediction", "zero_snr", "dtype", *more)
    return {name: value for name in names if (value := getattr(given, name, None)) is not None}


def add_network(parser: argparse._ActionsContainer, whose: str) -> None:
    """The option ``--network FILE.py:FUNCTION``, the code of a network of the user's own."""
    parser.add_argument(
        "--network",
        metavar="FILE.py:FUNCTION",
        default=argparse.SUPPRESS,
        help=f"your code of the network that {whose}; a function without arguments that returns it",
    )


def named_network(given: argparse.Namespace) -> str | None:
    """The code of a network of the user's own: that of ``--network``, or of a ``--teacher`` that is code,
    which its students' networks are made by as well; None for none."""
    from stillhouse.io.own import names_code

    return getattr(given, "network", None) or (given.teacher if names_code(given.teacher) else None)


def add_fields(
    parser: argparse.ArgumentParser,
    title: str,
    section: str,
    fields: Mapping[str, tuple[str, Field[Any]]],
    lines: Mapping[str, str],
) -> None:
    """One flag per field, kept under ``section.entry``. ``fields``: flag name -> (entry, field); ``lines``:
    entry -> help."""
    group = parser.add_argument_group(title)
    for name, (entry, field) in fields.items():
        default = default_of(field)
        options: dict[str, Any] = {
            "dest": f"{section}.{entry}",
            "default": argparse.SUPPRESS,
            "help": lines[entry].replace("%", "%%"),
        }
        if isinstance(default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, dict):
            options |= {"nargs": "+", "action": Pairs, "metavar": "KEY=VALUE"}
        else:
            kinds = ((int, "N"), (float, "X"), ((tuple, list), "A,B,…"))
            options["metavar"] = next((m for k, m in kinds if isinstance(default, k)), "WORD")
        group.add_argument("--" + name.replace("_", "-"), **options)


def sections(values: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Parsed values with ``section.entry`` sorted into a dictionary per section."""
    made: dict[str, Any] = {}
    for dest, value in vars(values).items():
        section, dot, entry = dest.partition(".")
        if dot and section in names:
            made.setdefault(section, {})[entry] = value
        else:
            made[dest] = value
    return made
