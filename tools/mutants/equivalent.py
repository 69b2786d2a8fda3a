"""Slips that change nothing anyone could see: ``equivalent.toml``, each with its reason.

An entry names the ``file``, the ``function``, the line ``old`` and what it becomes, ``new``, white space made
one blank: it is matched by content, and not by the number of its line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.mutants.slips import Mutant

LIST = Path("tools/mutants/equivalent.toml")


@dataclass(frozen=True)
class Equivalent:
    """One entry of the list."""

    file: str
    function: str
    old: str
    new: str
    reason: str

    def matches(self, mutant: Mutant) -> bool:
        return key(self) == key(mutant)


def read(place: Path) -> list[Equivalent]:
    """The list. Raises ``TypeError`` for an entry that lacks one of its five texts."""
    if not place.is_file():
        return []
    return [
        Equivalent(**entry) for entry in tomllib.loads(place.read_text(encoding="utf-8")).get("mutant", [])
    ]


def stale(entries: Iterable[Equivalent], mutants: Iterable[Mutant]) -> list[Equivalent]:
    """Entries for the files of ``mutants`` that match none of them."""
    mutants = list(mutants)
    files, made = {mutant.file for mutant in mutants}, {key(mutant) for mutant in mutants}
    return [entry for entry in entries if entry.file in files and key(entry) not in made]


def key(slip: Equivalent | Mutant) -> tuple[str, str, str, str]:
    """What a slip is recognised by."""
    return slip.file, slip.function, slip.old, slip.new
