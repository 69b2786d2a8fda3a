"""What a killed process left half-written beside a file or a folder, told from what another one writes now.

Files and folders are written under a name of their own, ``.NAME.1a2b3c4d.part``, which the writer holds by a
lock of the kernel. The lock dies with the process, so that what nobody holds is left over.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":  # which keeps no such locks
    import fcntl


@contextmanager
def part_of(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A new file or folder beside ``path``, in whose folder it lies, for the block to fill and to move to its
    place; deleted at the end where that was not done. What others left of theirs is deleted as well.

    Arguments:
        path: whose place the new one is to take.
        folder: make a folder.

    Returns:
        A context that gives the new one's path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path)
    part, handle = _claimed(path, folder)
    try:
        yield part
    finally:
        with suppress(OSError):  # most often: it took its place
            remove(part)
        if handle is not None:
            os.close(handle)


def _claimed(path: Path, folder: bool) -> tuple[Path, int | None]:
    """A new part and its open handle, which holds the lock; None where the system has no locks, and moves no
    open file."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        if folder:
            part.mkdir()
        else:
            part.touch()
        if sys.platform == "win32":
            return part, None
        handle = os.open(part, os.O_RDONLY)
        if take_lock(handle) is not False and part.exists():
            return part, handle
        os.close(handle)  # another process took it for a leftover in this very moment


def clear(path: Path) -> None:
    """Delete what dead processes left half-written of ``path``.

    Arguments:
        path: of a file or a folder that is about to be written.
    """
    if sys.platform == "win32":
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                if take_lock(handle):
                    remove(left)
            finally:
                os.close(handle)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def take_lock(handle: int) -> bool | None:
    """Take the kernel's lock of an open file: True; False where another process has it; None where the
    system, or the file's, keeps none."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
