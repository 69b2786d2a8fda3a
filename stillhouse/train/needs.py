"""What a system needs, as its record spells it: ``"data"``, ``"data unless gan_weight=0"``,
``"data if states=data"``.

Imports nothing heavy: the registry reads needs without importing a system.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stillhouse.core.errors import required

NEEDS = ("teacher", "student", "data", "labels", "prompts", "reward", "reader")
PATTERN = re.compile(r"(?P<name>\w+)(?: (?P<word>unless|if) (?P<option>\w+)=(?P<value>\S+))?")


@dataclass(frozen=True)
class Need:
    """One need. ``option``: whose value decides whether it stands, empty where it always does; ``unless``:
    that value switches it off, not on."""

    name: str
    option: str = ""
    value: str = ""
    unless: bool = False

    def holds(self, options: Any) -> bool:
        """Whether it stands for an object with these options as attributes."""
        if not self.option:
            return True
        return equals(getattr(options, self.option), self.value) != self.unless

    def phrase(self) -> str:
        """For a person: ``data, unless gan_weight=0``."""
        if not self.option:
            return self.name
        return f"{self.name}, {'unless' if self.unless else 'if'} {self.option}={self.value}"


def read_need(text: str) -> Need:
    """The need that a record spells; raises :class:`StillhouseError` for one that is none."""
    found = PATTERN.fullmatch(text)
    found = required(
        found if found and found["name"] in NEEDS else None,
        f"A need is one of {', '.join(NEEDS)}, alone or with 'unless OPTION=VALUE' or 'if OPTION=VALUE', not "
        f"'{text}'.",
    )
    return Need(found["name"], found["option"] or "", found["value"] or "", found["word"] == "unless")


def equals(value: Any, text: str) -> bool:
    """Whether an option's value is the one that a text spells, as it is typed on the command line.

    Arguments:
        value: a number, a bool or anything else, which is compared as a string.
        text: such as ``0.5``, ``true`` or ``data``.

    Returns:
        True if they are equal; ``1`` is no bool.
    """
    if isinstance(value, bool):
        return text == str(value).lower()
    if isinstance(value, int | float):
        try:
            return value == float(text)
        except ValueError:
            return False
    return str(value) == text


def requires(needs: Iterable[str], name: str, options: Any) -> bool:
    """Whether a system with these options needs something.

    Arguments:
        needs: the record's.
        name: of :data:`NEEDS`.
        options: an object with the options as attributes.

    Returns:
        True if one of the needs is of that name and stands.
    """
    return any(need.holds(options) for need in map(read_need, needs) if need.name == name)
