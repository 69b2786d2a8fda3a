"""A run's folder: what may lie there before a run begins, and that one process at a time works in it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stillhouse.core.errors import StillhouseError
from stillhouse.io.checked import json_text
from stillhouse.io.leftovers import remove, take_lock

LOCK = ".lock"
# what a run leaves that was killed, or refused, before it began: data that was encoded for it
BEFORE = {LOCK, "cache"}
log = logging.getLogger("stillhouse")


def is_free(folder: Path) -> bool:
    """Whether a run may begin in a folder: it is not there, or holds nothing but what one that never began
    leaves."""
    return not folder.exists() or all(
        entry.name in BEFORE or entry.name.endswith(".part") for entry in folder.iterdir()
    )


def tidy(folder: Path) -> None:
    """Delete what a process that was killed left half-written; only whoever holds the folder may."""
    for left in [*folder.rglob(".*.part"), *folder.rglob(".step-*.tmp")]:
        with suppress(OSError):
            remove(left)


@contextmanager
def held(folder: Path | None) -> Iterator[None]:
    """Inside the block no other process works in a run's folder, which is made if it is missing.

    The kernel keeps the lock for as long as the process lives, so that one left by a dead process is none. On
    a file system without locks a line says so, and a living process of the same host is still recognised.

    Arguments:
        folder: of the run; None for a run that writes nothing.

    Raises:
        StillhouseError: where another process holds it, with its number and host.
    """
    if folder is None:
        yield
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StillhouseError(f"The folder '{folder}' can't be made: {reason}.") from error
    path = folder / LOCK
    handle = _locked(path)
    try:
        os.ftruncate(handle, 0)
        about = {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}
        os.pwrite(handle, json.dumps(about).encode(), 0)
        tidy(folder)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)
        with suppress(OSError):  # but for those in which nothing was done they aren't empty
            for place in made:
                place.rmdir()


def _locked(path: Path) -> int:
    """The open file of a lock that this process holds."""
    if sys.platform == "win32":  # which keeps no such locks
        return _opened(path)
    while True:
        handle = _opened(path)
        taken, about = take_lock(handle), _about(handle)
        if taken is False or (taken is None and _lives(about)):
            os.close(handle)
            raise _refusal(path.parent, about)
        if taken is None:
            log.warning("The file system of '%s' keeps no locks; start no other run there.", path.parent)
            return handle
        with suppress(OSError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        os.close(handle)  # its last holder deleted the file in the meantime


def _opened(path: Path) -> int:
    # what a link leads to is nobody's lock, and would be written over
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        at = path.parent if error.errno != errno.ELOOP else path
        raise StillhouseError(f"Can't write to '{at}': {error.strerror}.") from error
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise StillhouseError(f"'{path}' is no file, but a pipe or device; delete it.")


def _about(handle: int) -> dict[str, Any]:
    """Who wrote a lock; empty where that can't be read."""
    try:
        found: dict[str, Any] = json_text(os.pread(handle, 1000, 0), dict, "The lock")
        return found
    except (StillhouseError, OSError):
        return {}


def _lives(about: dict[str, Any]) -> bool:
    """Whether a lock was written by a process of this host that is still there."""
    process = about.get("process")
    if about.get("host") != socket.gethostname() or not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _refusal(folder: Path, about: dict[str, Any]) -> StillhouseError:
    who = f"process {about.get('process', 'unknown')} on {about.get('host', 'an unknown host')}"
    since = f" since {about['since']}" if "since" in about else ""
    return StillhouseError(
        f"In '{folder}' a run is at work, {who}{since}: wait for its end or stop it, or name another folder."
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
