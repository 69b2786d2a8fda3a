"""An option: a dataclass field with a meaning, a unit and a range, of methods, other systems and recipes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Any

from stillhouse.core.errors import require
from stillhouse.core.scale import given_scale


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    code: bool = False,
) -> Any:
    """A hyperparameter: a dataclass field whose range :func:`check_option` enforces.

    Arguments:
        default: whose type is the option's.
        help: a line for the command line and the docs.
        unit: of the value; empty: none.
        low: the smallest value, included; None: no bound.
        high: the largest value, included; None: no bound.
        choices: the texts that are accepted; empty: any.
        code: whether a value may name code, ``module:function`` or ``./file.py:function``, which then runs.

    Returns:
        The field.
    """
    meta = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices, "code": code}
    return field(default=default, metadata=meta)


def check_options(system: Any, name: str = "") -> None:
    """Refuse options outside their declared ranges; a guidance scale of 0 becomes 1, in every system.

    Arguments:
        system: a dataclass with fields made by :func:`option`.
        name: in the sentences; empty: that of the class.

    Raises:
        StillhouseError: as :func:`check_option` does.
    """
    name = name or type(system).__name__
    for f in dataclasses.fields(system):
        check_option(name, f, getattr(system, f.name))
        if f.name.endswith("guidance"):
            setattr(system, f.name, given_scale(getattr(system, f.name), f"{name} {f.name}"))


def check_option(method: str, f: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a hyperparameter outside its declared range, in one sentence.

    Arguments:
        method: name of the system, for the sentence.
        f: a field made by :func:`option`; any other is passed over.
        value: what was given; numbers are finite, and whole where the default is.

    Raises:
        StillhouseError: the value is not one of the choices, of another type, or out of range.
    """
    meta, name = f.metadata, f"{method} option '{f.name}'"
    if not meta:
        return
    if meta["choices"]:
        require(value in meta["choices"], f"{name} is one of {', '.join(meta['choices'])}, not {value!r}.")
    if isinstance(f.default, bool):
        require(isinstance(value, bool), f"{name} is true or false, not {value!r}.")
    if isinstance(f.default, bool) or not isinstance(f.default, int | float):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    require(number, f"{name} is a finite number, not {value!r}.")
    require(
        isinstance(value, int) or not isinstance(f.default, int), f"{name} is a whole number, not {value!r}."
    )
    low, high = meta["low"], meta["high"]
    require(low is None or value >= low, f"{name} is at least {low}, not {value}.")
    require(high is None or value <= high, f"{name} is at most {high}, not {value}.")
