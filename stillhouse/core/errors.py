"""Errors that are meant for people: one sentence, what was wrong and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")
LONGEST = 1500  # characters of a message: what a file holds may be of any length
UNPRINTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal may take them for orders


class StillhouseError(Exception):
    """A mistake in the input. The CLI prints its message and exits with code 2.

    Arguments:
        message: one sentence; a very long one is cut in its middle, signs that aren't printed are left out.
    """

    def __init__(self, message: str = ""):
        message = UNPRINTED.sub("", str(message))
        half = LONGEST // 2
        super().__init__(message if len(message) <= LONGEST else f"{message[:half]} … {message[-half:]}")


def unknown(what: str, name: str, known: Iterable[str]) -> StillhouseError:
    """The error for a name that is not among ``known``, with the nearest one that is.

    Arguments:
        what: the kind of thing that was looked for, as in a sentence.
        name: the one that is not there.
        known: the names that there are.

    Returns:
        The error, to be raised.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
    return StillhouseError(f"There is no {what} '{name}'; {hint}")


def require(condition: bool, sentence: str) -> None:
    """Raise :class:`StillhouseError` with ``sentence`` unless ``condition`` holds.

    Arguments:
        condition: what has to hold.
        sentence: what was wrong, with which value, and what to do.
    """
    if not condition:
        raise StillhouseError(sentence)


def required(value: T | None, sentence: str) -> T:
    """A value that must be given; a zero or an empty list is one.

    Arguments:
        value: what was given, or None.
        sentence: the error's message where it is None: what is missing and what to do.

    Returns:
        ``value``, of a type without None.

    Raises:
        StillhouseError: where ``value`` is None.
    """
    if value is None:
        raise StillhouseError(sentence)
    return value


def required_type(value: object, kind: type[T] | tuple[type[T], ...], sentence: str) -> T:
    """A value that must be of a certain type.

    Arguments:
        value: what was given.
        kind: the class it must be an instance of, or several of them.
        sentence: the error's message for any other value: what was expected and what to do.

    Returns:
        ``value``, of type ``kind``.

    Raises:
        StillhouseError: where ``value`` is no instance of ``kind``.
    """
    if not isinstance(value, kind):
        raise StillhouseError(sentence)
    return value


def extra(module: str, name: str) -> ModuleType:
    """A module that only the extra ``stillhouse[name]`` installs; without it, an error that names the extra.

    Arguments:
        module: dotted name of what is imported.
        name: the extra of ``pip install 'stillhouse[name]'`` that brings it.

    Returns:
        The module.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise StillhouseError(
            f"This needs the package '{package}'; install it with: pip install 'stillhouse[{name}]'."
        ) from error
