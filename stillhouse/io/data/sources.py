"""Images with captions where users keep them: a folder, parquet files, tar shards. Read row by row, nothing
fetched, no script run.

Parquet and webdataset tars go through the ``datasets`` library. A folder is listed here, so that a missing
image can be named and left out, and captions may lie in text files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.data.prompts import caption_of, read_table, read_text
from stillhouse.io.data.rows import IMAGES, Row, Source, label_of
from stillhouse.io.data.shards import Parquet, Tars

log = logging.getLogger("stillhouse")

TABLES = ("metadata.csv", "metadata.jsonl")


class Folder(Source):
    """Image files, with a ``metadata.csv`` or ``metadata.jsonl`` (columns ``file_name``; ``text``,
    ``caption`` or ``prompt``; ``label``).

    Without one: every image below the folder, its caption in a ``.txt`` file of the same name if there is
    one, its class the subfolder it lies in: that number, or the place in the order of names.
    """

    def __init__(self, path: Path, files: list[Path]):
        images = [f for f in files if f.suffix.lower().removeprefix(".") in IMAGES]
        tables = [f for f in files if f.name in TABLES]
        self._rows = _listed(path, tables, images) if tables else _found(path, images, set(files))
        self.count = len(self._rows)
        digest = hashlib.blake2b(digest_size=16)
        for row in self._rows:
            assert isinstance(row.content, Path)
            size = row.content.stat().st_size if row.content.is_file() else None
            digest.update(repr((row.name, size, row.caption, row.label)).encode())
        super().__init__(path, digest.hexdigest())

    def rows(self) -> Iterator[Row]:
        return iter(self._rows)


def _listed(folder: Path, tables: list[Path], images: list[Path]) -> list[Row]:
    rows = []
    for table in tables:
        for number, entry in enumerate(read_table(table), 1):
            name = entry.get("file_name")
            require(bool(name), f"Row {number} of '{table}' has no file_name.")
            path = table.parent / str(name)
            rows.append(
                Row(
                    (table.parent.relative_to(folder) / str(name)).as_posix(),
                    path,
                    caption_of(entry),
                    label_of(entry.get("label")),
                )
            )
    extra = len(set(images) - {row.content for row in rows})
    if extra:
        log.warning("%d image(s) in '%s' are not in its %s and are left out.", extra, folder, tables[0].name)
    return rows


def _found(folder: Path, images: list[Path], files: set[Path]) -> list[Row]:
    tops = sorted({f.relative_to(folder).parts[0] for f in images if f.parent != folder})
    numbers = (
        {top: int(top) for top in tops}
        if all(top.isdecimal() for top in tops)
        else {top: i for i, top in enumerate(tops)}
    )
    rows = []
    for image in images:
        text = image.with_suffix(".txt")
        caption = " ".join(read_text(text).split()) if text in files else ""
        rows.append(
            Row(
                image.relative_to(folder).as_posix(),
                image,
                caption or None,
                numbers.get(image.relative_to(folder).parts[0]),
            )
        )
    return rows


def open_source(path: str | Path) -> Source:
    """The images of a folder (image files, parquet files or tar shards, also in folders below it) or of one
    such file.

    Raises :class:`StillhouseError` where there is nothing of the kind, or a file of it can't be read at all.
    """
    path = Path(path)
    require(path.exists(), f"There is no data at '{path}'.")
    below = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    files = [f for f in below if not any(part.startswith(".") for part in f.relative_to(path).parts)]
    suffixes = {f.suffix.lower().removeprefix(".") for f in files}
    if path.is_dir() and (suffixes & set(IMAGES) or any(f.name in TABLES for f in files)):
        return Folder(path, files)
    for suffix, kind in (("parquet", Parquet), ("tar", Tars)):
        if suffix in suffixes:
            _needs_datasets()
            return kind(path, [f for f in files if f.suffix.lower() == f".{suffix}"])
    raise StillhouseError(
        f"'{path}' holds no usable image: neither image files, nor parquet files, nor tar shards."
    )


def _needs_datasets() -> None:
    from importlib.util import find_spec

    require(
        find_spec("datasets") is not None,
        "Parquet files and tar shards need the datasets library: pip install 'stillhouse[pipelines]'.",
    )
