"""The system that a name means, with its options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillhouse.api.options import RENAMED, build, fields_of, run_fields
from stillhouse.core.errors import require, unknown
from stillhouse.core.process import Process
from stillhouse.core.spellings import current_options
from stillhouse.systems.base import Operation, Program
from stillhouse.systems.registry import find
from stillhouse.train.method import Method
from stillhouse.train.needs import read_need

System = Method | Operation | Program


def system_class(system: str | type | System) -> type[Any]:
    """The class of a system that a run can be made of; raises :class:`StillhouseError` for another thing."""
    if isinstance(system, str):
        return find(system)
    kind = system if isinstance(system, type) else type(system)
    require(issubclass(kind, System), f"{kind.__name__} is not a Method, an Operation or a Program.")
    return kind


def requires(system: Any, need: str) -> bool:
    """Whether a system has a need.

    Arguments:
        system: an object, whose options count; or its class.
        need: ``teacher``, ``student``, ``data`` …

    Returns:
        True if it has; for a class, if any of its options makes it a need.
    """
    if isinstance(system, type):  # before its options are known: whether any of them makes it a need
        needs: tuple[str, ...] = getattr(system, "needs", ())
        return any(read_need(text).name == need for text in needs)
    needed: bool = system.requires(need)
    return needed


def right_command(command: str, kind: type[Any], slug: str | None) -> None:
    """Refuse ``train`` for a system that has a teacher, and ``distill`` for one that has none.

    Arguments:
        command: ``train`` or ``distill``.
        kind: class of the system.
        slug: its name in the errors' messages; None for that of the class.
    """
    taught, name = requires(kind, "teacher"), slug or kind.__name__
    require(
        taught or command == "train",
        f"'{name}' is trained from data alone, without a teacher; use stillhouse train {name}.",
    )
    require(not taught or command == "distill", f"'{name}' needs a teacher; use stillhouse distill {name}.")


def split_options(kind: type[Any], options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords as the system's own options and the entries of its run.

    Arguments:
        kind: class of the system.
        options: its fields and those of :class:`Recipe`; where both have a name it is the system's, and the
            run's has ``run_`` before it.

    Returns:
        The options, and the run's entries under the names of a run's file.
    """
    mine = fields_of(kind)
    runs = run_fields(mine)
    options = current_options(options, {**runs, **mine})
    for name in options:
        if name not in mine and name not in runs:
            raise unknown(f"option of {kind.__name__} named", name, [*mine, *runs])
    own = {k: v for k, v in options.items() if k in mine}
    return own, {RENAMED.get(runs[k], runs[k]): v for k, v in options.items() if k not in mine}


def system_of(system: str | type | System, options: Mapping[str, Any]) -> Any:
    """A system with its options.

    Arguments:
        system: a slug, ``FILE.py:CLASS``, a class, or an object, which is copied.
        options: values of its fields by name.

    Returns:
        The object.

    Raises:
        StillhouseError: for an unknown system or option.
    """
    kind = system_class(system)
    if isinstance(system, System):
        return replace(system, **options)  # type: ignore[type-var]
    return build(kind, options, kind.__name__)


def own_defaults(system: str | type | System, process: Process, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the defaults that a method has on a process.

    Arguments:
        system: as of :func:`system_of`; an object has options of its own, and is given no others.
        process: the teacher's.
        options: those that were given, which come first.

    Returns:
        The options to make the system with.
    """
    kind = system_class(system)
    usual = kind.defaults_on(process) if issubclass(kind, Method) and not isinstance(system, System) else {}
    return {**usual, **current_options(options, fields_of(kind))} if usual else dict(options)


def name_of(system: str | type | System) -> str | None:
    """What :func:`system_class` finds the system again by; None for a class that lives in no file of its
    own."""
    kind = system_class(system)
    if kind.__module__.startswith("stillhouse."):
        return kind.__module__.rpartition(".")[2]
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return f"{Path(file).resolve()}:{kind.__name__}" if file else None
