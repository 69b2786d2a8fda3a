"""What a run's file may not ask for by itself: code is run, and a hub is asked, only where the user has named
it in this command. A file may come from anybody."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.api.options import fields_of
from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.own import names_code
from stillhouse.io.pipelines.index import HUB
from stillhouse.systems.registry import class_of

NAMED = ("teacher", "network", "data", "adapter", "student")  # entries that may be code


def code_in(entries: Mapping[str, Any]) -> dict[str, str]:
    """The code that the entries of a run name.

    Arguments:
        entries: of a run's file, or of the command line.

    Returns:
        Names such as ``net.py:make`` by entry; an option's stands under ``options.NAME``, the system's under
        ``method``.
    """
    system = entries.get("system") or entries.get("method")
    found = {"method": system, **{name: entries.get(name) for name in NAMED}}
    options = entries.get("options") or {}
    own = _options_of_code(system)
    found |= {
        f"options.{name}": value
        for name, value in options.items()
        if names_code(value) or (name in own and isinstance(value, str) and ":" in value)
    }
    return {name: str(value) for name, value in found.items() if _is_code(name, value)}


def naming(code: Mapping[str, str]) -> str:
    """The words of a command line that name this code, the system aside: `` --adapter x.py:X``."""
    options = {name.removeprefix("options.").replace("_", "-"): c for name, c in code.items()}
    return "".join(f" --{name} {shlex.quote(c)}" for name, c in options.items() if name != "method")


def require_named(read: Mapping[str, Any], typed: Mapping[str, Any], command: str, rest: str) -> None:
    """Refuse a file that names code which the user has not.

    Arguments:
        read: the file's entries.
        typed: the user's own, which come before the file's.
        command: what starts the run, ``distill`` for example; the system's name follows.
        rest: the words after that, ``--resume RUN``.

    Raises:
        StillhouseError: with the command that would run it.
    """
    given = code_in(typed)
    taken = {*given, *typed, *(f"options.{name}" for name in typed.get("options") or {})}
    missing = {name: code for name, code in code_in(read).items() if name not in taken}
    every = {**given, **missing}
    system = f" {shlex.quote(every['method'])}" if "method" in every else ""
    require(
        not missing,
        f"The file names code, {', '.join(missing.values())}, which runs only where you name it: stillhouse "
        f"{command}{system} {rest}{naming(every)}",
    )


def require_adapter(read: Mapping[str, Any], typed: Any, place: str | Path) -> None:
    """Refuse a run whose pipeline is read by code that the user has not named.

    Arguments:
        read: the run's entries.
        typed: the adapter that the user named; None for none.
        place: the run's folder, for the sentence.

    Raises:
        StillhouseError: where the run has an adapter, and none was named.
    """
    recorded = read.get("adapter")
    require(
        not recorded or typed is not None,
        f"The pipeline of '{place}' is read by code, {recorded}, which runs only where you name it: add "
        f"--adapter {recorded}.",
    )


def from_cache(source: Any) -> dict[str, Any]:
    """Options of opening a source that a file has named: a hub's model comes from what was fetched before."""
    return {"local": True} if isinstance(source, str) and source.startswith(HUB) else {}


def digests(entries: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files whose code a run is made by, by name.

    Arguments:
        entries: of the run.

    Returns:
        The digests' first 16 digits; none of modules that are named without a file.
    """
    files = {name: _file(name) for name in code_in(entries).values() if ".py" in name}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for name, file in files.items()
        if file.is_file()
    }


def changed(recorded: Mapping[str, Any], entries: Mapping[str, Any]) -> list[str]:
    """Code of a run that is no longer what it began with.

    Arguments:
        recorded: the entries of its file.
        entries: as it goes on.

    Returns:
        The files' names.
    """
    before = recorded.get("code") or {}
    old, now = (
        {_file(name).name: digest for name, digest in of.items()} for of in (before, digests(entries))
    )
    return sorted(name for name in old.keys() & now.keys() if old[name] != now[name])


def _file(name: str) -> Path:
    return Path(name.partition(".py")[0] + ".py")


def _options_of_code(system: Any) -> set[str]:
    """The options of one of our systems that name code."""
    if not isinstance(system, str) or names_code(system):
        return set()
    try:
        kind = class_of(system)
    except StillhouseError:
        return set()
    return {name for name, f in fields_of(kind).items() if f.metadata.get("code")}


def _is_code(name: str, value: Any) -> bool:
    return name.startswith("options.") or names_code(value)
