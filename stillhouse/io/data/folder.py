"""Pictures as files: with a table beside them, with a caption file each, or in folders of classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.checked import json_text
from stillhouse.io.data.contents import Contents
from stillhouse.io.data.rows import Row, Source, is_picture, one_a_caption
from stillhouse.io.data.splits import BESIDE, SPLITS, TRAIN, Place, places, split_named
from stillhouse.io.data.tables import (
    FILE_NAMES,
    TABLES,
    captions_of,
    label_of,
    numbered,
    read_table,
    read_text,
)
from stillhouse.io.inside import inside

METADATA = "metadata"  # the name of a table, by the convention of the datasets library
CAPTION_FILES = (".txt", ".caption", ".json")


class Folder(Source):
    """Image files, with tables beside them (``metadata.csv``, ``.jsonl`` or ``.parquet`` with the columns
    ``file_name``; ``text``, ``caption`` or ``prompt``; ``label``; ``split``), or without: then every image,
    its caption in a ``.txt``, ``.caption`` or ``.json`` file of the same name if there is one, its class the
    subfolder it lies in: that number, or the place in the order of names.

    Arguments:
        path: of the data set.
        files: all of it.
    """

    def __init__(self, path: Path, files: Sequence[Path]):
        images = [file for file in files if is_picture(file)]
        super().__init__(path, Contents(path, "files"))
        self.root = path if path.is_dir() else path.parent
        self._places = places([self._short(file) for file in images], by_name=False)
        self._used: set[Path] = set()
        self._rows: list[Row] = []
        self._texts = {
            (file.parent, file.stem, file.suffix.lower()): file
            for file in files
            if file.suffix.lower() in CAPTION_FILES
        }
        tables = self._tables(files, images)
        if tables:
            self._listed(tables, images)
        else:
            self._found(images)
        self.contents.formats.update(
            row.content.suffix.lower().removeprefix(".")
            for row in {row.name: row for row in self._rows}.values()
            if isinstance(row.content, Path)
        )

    @property
    def used(self) -> set[Path]:
        """The files that pictures and captions are read from."""
        return self._used

    def all_rows(self, splits: Sequence[str] = SPLITS) -> Iterator[Row]:
        return iter(self._rows)

    def parts(self) -> list[tuple[object, Path | None]]:
        return [
            ((row.name, row.caption, row.label, row.split), row.content)
            for row in self.rows()
            if not isinstance(row.content, bytes)
        ]

    def _short(self, file: Path) -> PurePath:
        return PurePath(file.relative_to(self.root))

    def _place(self, file: Path) -> Place:
        """Where a picture belongs; one that a table names and that isn't there, by its folders alone."""
        return self._places.get(self._short(file), Place("", self._short(file).parts[:-1]))

    def _add(self, file: Path, captions: list[str], label: int | None, split: str) -> None:
        self.contents.add(split, captions=len(captions), label=label is not None)
        self._rows += one_a_caption(Row(self._short(file).as_posix(), file, None, label, split), captions)
        self._used.add(file)

    def _tables(self, files: Sequence[Path], images: list[Path]) -> dict[Path, list[dict[str, Any]]]:
        """The tables that list pictures, and their rows: those that are named metadata; or else those whose
        file names lead to pictures, if together they lead to half of all."""
        found = [file for file in files if file.suffix.lower() in TABLES]
        named = [file for file in found if file.stem.lower() == METADATA]
        if named:
            return {file: read_table(file) for file in named}
        known, stems = set[Path | None](images), {image.with_suffix("") for image in images}
        tables, listed = {}, set[Path | None]()
        for file in found if images else ():
            if file.suffix.lower() == ".parquet" or file.with_suffix("") in stems:
                continue
            with suppress(StillhouseError):  # what is no table is left out with all other files
                rows = read_table(file)
                if mine := known & {self._named(file, row) for row in rows}:
                    tables[file] = rows
                    listed |= mine
        return tables if 2 * len(listed) >= len(images) else {}

    def _named(self, table: Path, row: dict[str, Any]) -> Path | None:
        """The picture that a row names; None for one outside the data set, or none at all."""
        name = next((row[column] for column in FILE_NAMES if isinstance(row.get(column), str)), "")
        return inside(self.root, table.parent, name.strip()) if name.strip() else None

    def _listed(self, tables: dict[Path, list[dict[str, Any]]], images: list[Path]) -> None:
        around = places([self._short(table) for table in tables], by_name=True)
        numbers = numbered(label_of(row.get("label")) for rows in tables.values() for row in rows)
        self.contents.classes = list(map(str, numbers))
        for table, rows in tables.items():
            of_table = around[self._short(table)].split
            if of_table == BESIDE:
                self.contents.leave("table(s) beside those of the splits", self._short(table).as_posix())
                continue
            self._used.add(table)
            for number, row in enumerate(rows, 1):
                name = next((row[column] for column in FILE_NAMES if row.get(column)), None)
                require(bool(name), f"Row {number} of '{table}' has no file_name.")
                self._list(table, str(name), row, numbers, of_table)
        names = ", ".join(sorted({table.name for table in tables}))
        self._leave(f"picture(s) that {names} does not list", (i for i in images if i not in self._used))

    def _list(
        self, table: Path, name: str, row: dict[str, Any], numbers: dict[int | str | None, int], of_table: str
    ) -> None:
        file = self._named(table, row)
        if file is None:
            self.contents.leave("picture(s) whose path leaves the folder", name)
        elif not file.is_file():
            self._leave(f"picture(s) that {table.name} lists and that are missing", [file])
            self.skipped[self._short(file).as_posix()] = "it is missing"
        else:
            place = self._place(file).split
            split = split_named(str(row.get("split") or "")) or ("" if place == BESIDE else place) or of_table
            label = label_of(row.get("label"))
            captions = captions_of(row) or self._caption(file)
            if captions is not None:
                self._add(file, captions, None if label is None else numbers[label], split or TRAIN)

    def _found(self, images: list[Path]) -> None:
        at = {image: self._place(image) for image in images}
        labels = _classes({image: place.folders for image, place in at.items() if place.split != BESIDE})
        numbers = numbered(labels.values())
        self.contents.classes = list(map(str, numbers))
        self._leave(
            "picture(s) beside the folders of the splits", (i for i in images if at[i].split == BESIDE)
        )
        for image in images:
            if at[image].split == BESIDE:
                continue
            captions, label = self._caption(image), labels.get(image)
            if captions is not None:
                self._add(
                    image, captions, None if label is None else numbers[label], at[image].split or TRAIN
                )

    def _leave(self, reason: str, files: Iterable[Path]) -> None:
        self.contents.leave(reason, [self._short(file).as_posix() for file in files])

    def _caption(self, image: Path) -> list[str] | None:
        """What the first of the caption files beside a picture holds; None leaves the picture out."""
        beside = [
            text
            for stem in (image.stem, image.name)
            for suffix in CAPTION_FILES
            if (text := self._texts.get((image.parent, stem, suffix)))
        ]
        for text in beside:
            try:
                found = _caption(text)
            except StillhouseError:
                self._leave("picture(s) whose caption is no text in UTF-8", [image])
                return None
            if found:
                self._used.add(text)
                return found
        self._used.update(beside)
        return []


def _caption(file: Path) -> list[str]:
    text = read_text(file)
    if file.suffix.lower() != ".json":
        return [joined] if (joined := " ".join(text.split())) else []
    try:
        about = json_text(text, dict, f"'{file}'")
    except StillhouseError:
        return []
    return captions_of({name.lower(): value for name, value in about.items()})


def _classes(folders: dict[Path, tuple[str, ...]]) -> dict[Path, int | str | None]:
    """The class of each picture: the first of its folders that tells some apart, or that is a number."""
    below = {file: parts for file, parts in folders.items() if parts}
    tops = {parts[0] for parts in below.values()}
    while len(tops) == 1 and not next(iter(tops)).isdecimal():
        below = {file: parts[1:] for file, parts in below.items() if parts[1:]}
        tops = {parts[0] for parts in below.values()}
    return {file: label_of(parts[0]) for file, parts in below.items()}
