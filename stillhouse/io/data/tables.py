"""Text as its format has it: lines end where the format ends them, a comma outside quotes is no end of a
caption, and a list of captions is several captions."""

from __future__ import annotations

import ast
import csv
import io
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.checked import json_text

log = logging.getLogger("stillhouse")

# columns that hold captions, first come first served
CAPTIONS = ("text", "caption", "prompt", "texts", "captions", "prompts", "description")
FILE_NAMES = ("file_name", "filename", "file", "image", "image_file", "image_path", "path")
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte-order mark."""
    try:
        # line ends as they are: what they mean, the format decides
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StillhouseError(
            f"'{path}' is no text in UTF-8 (byte {error.start}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise StillhouseError(f"Can't read '{path}': {error.strerror}.") from error


def lines_of(text: str) -> list[str]:
    """The lines of a text. Only carriage return and line feed end one, not the further characters that
    ``str.splitlines`` takes for an end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table by column; the columns' names in small letters, without spaces around them.

    Arguments:
        path: ``.csv`` or ``.tsv`` with a heading, ``.jsonl`` of one object a line, ``.json`` with a list of
            objects, or ``.parquet``.

    Returns:
        One dict a row; raises :class:`StillhouseError` for what is no such table.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        rows = _parquet(path)
    elif kind in SEPARATORS:
        rows = _separated(path, read_text(path), SEPARATORS[kind])
    else:
        rows = _objects(path, read_text(path))
    return [{str(name).strip().lower(): value for name, value in row.items()} for row in rows]


def _separated(path: Path, text: str, separator: str) -> list[dict[str, Any]]:
    heading = lines_of(text)[0]
    # as spreadsheets write it where the comma is the decimal mark
    if separator == "," and "," not in heading:
        separator = next((s for s in (";", "\t") if s in heading), ",")
    spaced = f"{separator} " in heading
    try:
        table = [
            row
            for row in csv.reader(
                io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced
            )
            if row
        ]
    except csv.Error as error:
        raise StillhouseError(f"'{path}' is no table of separated values: {error}.") from error
    names = [name.strip().lower() for name in table[0]] if table else []
    rows, mended = [], 0
    for number, cells in enumerate(table[1:], 2):
        surplus = len(cells) - len(names)
        if surplus > 0:
            wide = [i for i, name in enumerate(names) if name in CAPTIONS]
            require(
                len(wide) == 1,
                f"Row {number} of '{path}' has {len(cells)} values in {len(names)} columns; put what holds a "
                f"'{separator}' in quotes.",
            )
            at, joint = wide[0], separator + (" " if spaced else "")
            cells = [*cells[:at], joint.join(cells[at : at + surplus + 1]), *cells[at + surplus + 1 :]]
            mended += 1
        rows.append(dict(zip(names, cells, strict=False)))
    if mended:
        log.warning(
            "%d row(s) of '%s' hold a '%s' outside quotes; it is read as part of the caption.",
            mended,
            path,
            separator,
        )
    return rows


def _objects(path: Path, text: str) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".json":
        try:
            whole = json_text(text, Any, f"'{path}'")
        except StillhouseError:  # lines of objects under this name are read as such
            whole = None
        if isinstance(whole, list) and all(isinstance(row, dict) for row in whole):
            return whole
        require(whole is None, f"'{path}' holds no list of JSON objects.")
    rows = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        rows.append(json_text(line, dict, f"Line {number} of '{path}'"))
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise StillhouseError(f"'{path}' is no whole parquet file: {str(error).splitlines()[0]}") from error
    return rows


def captions_of(row: Mapping[str, Any]) -> list[str]:
    """The captions among a row's columns.

    Arguments:
        row: by column; of :data:`CAPTIONS` the first that holds something counts.

    Returns:
        One for a text, several for a list of them, also for one that was written as text; none where the
        column is missing, empty or not a number.
    """
    return next((found for name in CAPTIONS if (found := _texts(row.get(name)))), [])


def _texts(value: Any) -> list[str]:
    if value is None or isinstance(value, dict) or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, list | tuple):
        return [text for each in value for text in _texts(each)]
    text = " ".join((value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).split())
    if text.startswith("[") and text.endswith("]"):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = None
        if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
            return _texts(listed)
    return [text] if text else []


def label_of(value: Any) -> int | str | None:
    """A class as tables have it.

    Arguments:
        value: of a cell.

    Returns:
        A whole number, a name, or None where there is none; raises :class:`StillhouseError` for anything
        else.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.removeprefix("-").isdecimal() else text or None
    try:
        whole = int(value)
    except (TypeError, ValueError):
        whole = None
    require(whole is not None and whole == value, f"A label is a whole number or a name, not {value!r}.")
    return whole


def numbered(labels: Iterable[int | str | None]) -> dict[int | str | None, int]:
    """Numbers for labels: themselves where all are numbers, else their places in the order of names.

    Arguments:
        labels: of all rows; None for a row without one.

    Returns:
        The number of each label.
    """
    found = {label for label in labels if label is not None}
    numbers = {label: label for label in found if isinstance(label, int)}
    if len(numbers) == len(found):
        return dict(sorted(numbers.items()))
    return {label: place for place, label in enumerate(sorted(found, key=str))}
