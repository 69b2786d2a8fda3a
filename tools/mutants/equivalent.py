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
        return (self.file, self.function, self.old, self.new) == (
            mutant.file,
            mutant.function,
            mutant.old,
            mutant.new,
        )


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
    files = {mutant.file for mutant in mutants}
    made = {(m.file, m.function, m.old, m.new) for m in mutants}
    return [e for e in entries if e.file in files and (e.file, e.function, e.old, e.new) not in made]
