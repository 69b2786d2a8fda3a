"""What plain data must look like: the entries of a file of ours, or the arguments of a call, by name and
type; and the one sentence on what differs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from stillhouse.core.errors import StillhouseError

# A class; None; Any; a tuple of structures, one of which fits; a list of one structure, that of every entry
# of a sequence; or a dict of structures by name: "name?" may be missing, "*" is that of all others
Structure = Any


class Number:
    """In a structure: a number that need not be finite."""


NAMES: dict[Any, str] = {
    Number: "a number",
    str: "a text",
    int: "a whole number below 2^63",
    float: "a finite number",
    bool: "true or false",
    dict: "a table of names and values",
    Mapping: "a table of names and values",
    list: "a list",
    None: "none",
}
# that of a field or an argument by its annotation
BY_ANNOTATION: dict[str, Structure] = {
    **{kind.__name__: kind for kind in (str, int, float, bool)},
    "Sequence[int]": [int],
    "tuple[float, ...]": [float],
}
LARGE = 2**63
LONGEST = 60  # characters of a value that are shown


def checked(value: Any, structure: Structure, source: str) -> Any:
    """Plain data that must be of a structure.

    Arguments:
        value: as it was read or given.
        structure: see :data:`Structure`. ``int`` and ``float`` take no booleans, ``float`` whole numbers as
            well, but nothing that is not finite; ``dict`` is one whose names are texts.
        source: begins the sentence, "'run.yaml' can't be read" for example.

    Returns:
        ``value``.

    Raises:
        StillhouseError: naming the first entry that differs, what it is and what is expected.
    """
    if found := differs(value, structure):
        raise StillhouseError(f"{source}: {found}.")
    return value


def fields_structure(kind: type) -> Structure:
    """What plain data must look like for a dataclass to be made of it, as far as annotations tell; of another
    class anything."""
    if not is_dataclass(kind):
        return Any
    return {f"{f.name}?": BY_ANNOTATION.get(str(f.type), Any) for f in fields(kind)}


def differs(value: Any, structure: Structure, place: str = "") -> str:
    """What is wrong with plain data.

    Arguments:
        value: as it was read or given.
        structure: that it must be of.
        place: the name of the entry, for the answer; empty for the whole.

    Returns:
        A clause without a full stop, empty where nothing is wrong.
    """
    if structure is Any:
        return ""
    if isinstance(structure, tuple):
        clauses = [differs(value, one, place) for one in structure]
        if "" in clauses:
            return ""
        nested = [c for c, one in zip(clauses, structure, strict=True) if _outer(one) and _fits(value, one)]
        return nested[0] if nested else _expected(value, structure, place)
    if not _fits(value, structure):
        return _expected(value, structure, place)
    if isinstance(structure, list):
        found = (differs(one, structure[0], f"{place}[{i}]") for i, one in enumerate(value))
        return next((clause for clause in found if clause), "")
    return _entries(value, structure, place) if isinstance(structure, dict) else ""


def _entries(value: Mapping[str, Any], structure: dict[str, Structure], place: str) -> str:
    known = {name.removesuffix("?"): one for name, one in structure.items() if name != "*"}
    for name in structure:
        if name != "*" and not name.endswith("?") and name not in value:
            return f"'{place}' lacks '{name}'" if place else f"it lacks '{name}'"
    others = structure.get("*", Any)
    for name, one in value.items():
        if clause := differs(one, known.get(name, others), f"{place}.{name}" if place else name):
            return clause
    return ""


def _outer(structure: Structure) -> bool:
    return isinstance(structure, dict | list)


def _fits(value: Any, structure: Structure) -> bool:
    """Whether a value is of the outermost kind of a structure."""
    if structure is None:
        return value is None
    if structure is bool:
        return isinstance(value, bool)
    if structure is int:
        return not isinstance(value, bool) and isinstance(value, Integral) and abs(int(value)) < LARGE
    if structure is float or structure is Number:
        number = not isinstance(value, bool) and isinstance(value, Real)
        finite = number and abs(value) <= sys.float_info.max
        return finite or (structure is Number and number and not isinstance(value, Integral))
    if structure is dict or structure is Mapping or isinstance(structure, dict):
        table = isinstance(value, Mapping if structure is Mapping else dict)
        return table and all(isinstance(name, str) for name in value)
    if isinstance(structure, list):
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return structure is Any or isinstance(value, structure)


def _expected(value: Any, structure: Structure, place: str) -> str:
    kinds = structure if isinstance(structure, tuple) else (structure,)
    names = list(dict.fromkeys(map(_name, kinds)))
    several = f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
    subject = f"'{place}'" if place else "it"
    return f"{subject} is {several}, not {shown(value)}"


def _name(structure: Structure) -> str:
    if isinstance(structure, dict | list):
        return NAMES[type(structure)]
    return (
        NAMES[list] if structure in (tuple, Sequence) else NAMES.get(structure) or f"a {structure.__name__}"
    )


def shown(value: Any) -> str:
    """A value as a sentence shows it: a number or a text in short, of anything else its type."""
    if value is None:
        return "none"
    if not isinstance(value, bool | int | float | str | bytes | list | tuple | dict):
        return f"a {type(value).__name__}"
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        return "what no line can show"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
