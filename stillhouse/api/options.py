"""Dataclass fields as options that a person names: a Python keyword, an entry of a YAML file or a word on the
command line.

What a field accepts follows from its default; its description comes from
:func:`stillhouse.train.method.option`, or else from the comment on its line.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stillhouse.core.errors import StillhouseError, require, required_type, unknown
from stillhouse.core.spellings import current_options
from stillhouse.core.structure import checked
from stillhouse.io.checked import text_of
from stillhouse.io.plain_yaml import yaml_of
from stillhouse.train.recipe import Recipe

T = TypeVar("T")

# a method's `steps` are the student's; what the loop counts is called iterations wherever people meet both
RENAMED = {"steps": "iterations"}


def fields_of(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass that can be set, by name."""
    return {f.name: f for f in dataclasses.fields(kind) if f.init}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; ``None`` if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def run_fields(taken: Iterable[str] = ()) -> dict[str, str]:
    """Names of the run's options and the fields of :class:`Recipe` they set; a name in ``taken`` gets
    ``run_`` before it."""
    taken = set(taken)
    names = {name: RENAMED.get(name, name) for name in fields_of(Recipe)}
    return {f"run_{public}" if public in taken else public: name for name, public in names.items()}


def explain(kind: type) -> dict[str, str]:
    """One line on each field of a dataclass: meaning, unit, range and default."""
    comments = dict(re.findall(r"^\s+(\w+):[^#\n]*#\s*(.+)$", inspect.getsource(kind), re.MULTILINE))
    return {name: _line(field, comments.get(name, "")) for name, field in fields_of(kind).items()}


def _line(field: dataclasses.Field[Any], comment: str) -> str:
    meta = field.metadata
    low, high = meta.get("low"), meta.get("high")
    default = default_of(field)
    notes = [meta.get("unit", "")]
    if meta.get("choices"):
        notes.append("one of " + ", ".join(meta["choices"]))
    if low is not None and high is not None:
        notes.append(f"{low} … {high}")
    elif low is not None or high is not None:
        notes.append(f"at least {low}" if high is None else f"at most {high}")
    shown = " ".join(f"{k}={v}" for k, v in default.items()) if isinstance(default, dict) else default
    notes.append(f"default {shown if shown not in ('', None) else 'none'}")
    return f"{meta.get('help', comment)} [{'; '.join(n for n in notes if n)}]".strip()


def plain(text: Any) -> Any:
    """A word as the value that YAML reads in it, and ``1e-4`` as the number that YAML 1.1 does not."""
    if not isinstance(text, str):
        return text
    try:
        return float(text) if re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", text) else yaml_of(text)
    except (yaml.YAMLError, ValueError):
        return text


def pairs(words: Iterable[str], what: str) -> dict[str, Any]:
    """``["width=64", "depth=2"]`` as a dictionary.

    Arguments:
        words: of the command line.
        what: the option that they belong to, for the error's message.

    Returns:
        Values by key, each read as YAML.

    Raises:
        StillhouseError: for a word without a key or ``=``.
    """
    made = {}
    for word in words:
        key, equals, value = word.partition("=")
        require(bool(key and equals), f"{what} takes KEY=VALUE, not '{word}'.")
        made[key] = plain(value)
    return made


def coerce(what: str, value: Any, default: Any) -> Any:
    """A value as the type of a default.

    Arguments:
        what: the option, for the error's message.
        value: as it was given, a word of the command line or an entry of a file.
        default: the option's default; None leaves the value as YAML reads it.

    Returns:
        The value.

    Raises:
        StillhouseError: where it can't be of that type.
    """
    if isinstance(default, str):
        require(isinstance(value, str), f"{what} is a word, not {value!r}.")
        return value
    value = plain(value)
    if isinstance(default, bool):
        require(isinstance(value, bool), f"{what} is true or false, not {value!r}.")
    elif isinstance(default, int | float):
        require(
            isinstance(value, int | float) and not isinstance(value, bool),
            f"{what} is a number, not {value!r}.",
        )
        if isinstance(default, float):
            return float(value)
    elif isinstance(default, tuple | list):
        if isinstance(value, str):
            value = [plain(v) for v in value.replace(",", " ").split()]
        items = list(value) if isinstance(value, tuple | list) else [value]
        kind = default[0] if default else None
        return type(default)(coerce(what, v, kind) for v in items)
    elif isinstance(default, dict):
        require(isinstance(value, dict), f"{what} takes KEY=VALUE pairs, not {value!r}.")
    return value


def build(kind: type[T], values: Mapping[str, Any], owner: str) -> T:
    """``kind(**values)`` with every value coerced to the type of its default.

    Arguments:
        kind: a dataclass.
        values: its fields, by today's names or those of before.
        owner: whose options they are, for the errors' messages.

    Returns:
        The object.

    Raises:
        StillhouseError: for an unknown name, with the nearest one, a missing option, and a value of another
        type.
    """
    fields = fields_of(kind)
    values = current_options(values, fields)
    for name in values:
        if name not in fields:
            raise unknown(f"option of {owner} named", name, fields)
    missing = [
        n
        for n, f in fields.items()
        if n not in values and f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise StillhouseError(f"{owner} needs the option '{missing[0]}'.")
    return kind(
        **{
            name: coerce(f"The option '{name}' of {owner}", value, default_of(fields[name]))
            for name, value in values.items()
        }
    )


def build_recipe(values: Mapping[str, Any]) -> Recipe:
    """The :class:`Recipe` of a run's entries, named as people name them."""
    names = run_fields()
    values = current_options(values, names)
    for name in values:
        if name not in names:
            raise unknown("run option", name, names)
    recipe = build(Recipe, {names[name]: value for name, value in values.items()}, "the run")
    recipe.lr = {
        player: coerce(f"The learning rate of '{player}'", rate, 0.0) for player, rate in recipe.lr.items()
    }
    return recipe


def recipe_entries(recipe: Recipe) -> dict[str, Any]:
    """The inverse of :func:`build_recipe`."""
    return {RENAMED.get(name, name): value for name, value in dataclasses.asdict(recipe).items()}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A table of entries; raises :class:`StillhouseError` if the file is missing, torn or something else."""
    path = Path(path)
    require(path.is_file(), f"There is no run file '{path}'.")
    try:
        entries = yaml_of(text_of(path))
    except yaml.YAMLError as error:
        raise StillhouseError(f"'{path}' is not valid YAML: {' '.join(str(error).split())}.") from error
    entries = required_type(entries, dict, f"'{path}' holds no entries; a run file looks like 'method: cm'.")
    named: dict[str, Any] = checked(entries, dict, f"'{path}' can't be read")
    return named
