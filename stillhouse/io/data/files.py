"""The files of a data set: links followed, hidden ones left alone; and what their bytes are, remembered."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePath

from tqdm import tqdm

from stillhouse.core.errors import StillhouseError
from stillhouse.io.checked import json_of
from stillhouse.io.weights import atomic_write

AT_ONCE = 1000  # files that wait to be read
SLOW = 2.0  # seconds after which a progress bar is shown
RECENT = 2.0  # seconds within which a file may be written again without a new time of change


def walk(root: Path) -> tuple[list[Path], dict[str, list[str]]]:
    """Every file below a folder, in the order of names. Links to folders are followed, but not in a circle;
    hidden names, and folders that begin with two underscores, are passed over.

    Arguments:
        root: a folder, or one file.

    Returns:
        The files, and by reason the names that were left out.
    """
    if root.is_file():
        return [root], {}
    files: list[Path] = []
    left: dict[str, list[str]] = {}

    def visit(folder: Path, around: frozenset[tuple[int, int]]) -> None:
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise StillhouseError(f"Can't read the folder '{folder}': {error.strerror}.") from error
        for entry in entries:
            path = folder / entry.name
            name = path.relative_to(root).as_posix()
            if entry.name.startswith(".") or (entry.name.startswith("__") and entry.is_dir()):
                left.setdefault("hidden entry(s)", []).append(name)
            elif entry.is_dir():
                about = path.stat()
                here = about.st_dev, about.st_ino
                if here in around:
                    left.setdefault("link(s) to a folder around them", []).append(name)
                else:
                    visit(path, around | {here})
            elif entry.is_file():
                files.append(path)
            else:
                why = "broken link(s)" if entry.is_symlink() else "entry(s) that are neither file nor folder"
                left.setdefault(why, []).append(name)

    about = root.stat()
    visit(root, frozenset({(about.st_dev, about.st_ino)}))
    return sorted(files), left


class Digests:
    """What the bytes of files are. A file whose size and time of change are as before is not read again.

    Arguments:
        root: folder that the files are named from.
        memory: file that is kept from run to run; None for none.
        show: a progress bar, once it takes seconds.
    """

    def __init__(self, root: Path, memory: Path | None = None, *, show: bool = False):
        self.root, self.memory, self.show = root, memory, show
        self.known: dict[str, tuple[int, int, str]] = {}
        self._fresh: dict[str, tuple[int, int, str]] = {}
        if memory is not None:
            with suppress(StillhouseError):  # lost or torn: everything is read again
                rows = json_of(memory, {"*": [(int, str)]})
                self.known = {name: tuple(row) for name, row in rows.items() if len(row) == 3}

    def of(self, files: Iterable[Path]) -> dict[Path, str]:
        """Digests of the bytes, empty for a file that isn't there."""
        files = list(dict.fromkeys(files))
        found: dict[Path, str] = {}
        bar = tqdm(total=len(files), desc="look through", unit="file", delay=SLOW, disable=not self.show)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, bar:
            for start in range(0, len(files), AT_ONCE):
                some = files[start : start + AT_ONCE]
                found |= zip(some, pool.map(self._one, some), strict=True)
                bar.update(len(some))
        return found

    def _one(self, file: Path) -> str:
        try:
            about = file.stat()
            name = PurePath(os.path.relpath(file, self.root)).as_posix()
            known = self.known.get(name)
            if known and known[:2] == (about.st_size, about.st_mtime_ns):
                digest = known[2]
            else:
                with open(file, "rb") as opened:
                    digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError:
            return ""
        if time.time() - about.st_mtime > RECENT:
            self._fresh[name] = about.st_size, about.st_mtime_ns, digest
        return digest

    def save(self) -> None:
        """Keep what was found."""
        if self.memory is not None and self._fresh != self.known:
            atomic_write(self.memory, json.dumps(self._fresh, sort_keys=True).encode())
            self.known = dict(self._fresh)
