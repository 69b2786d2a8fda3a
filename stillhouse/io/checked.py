"""The one reader of files that this library writes: whatever lies there instead, the error is one sentence
that names the file, and the entry where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.structure import Structure, checked

if TYPE_CHECKING:  # the command line reads settings before it imports torch
    from torch import Tensor

ABOUT = "stillhouse.json"  # what a folder of another library's format says of a student of ours
LARGEST = 256 * 2**20  # bytes of a text


def text_of(path: str | Path) -> str:
    """The text of a file in UTF-8.

    Arguments:
        path: of the file.

    Returns:
        Its text.

    Raises:
        StillhouseError: for a missing file, one that is no regular file, that can't be read, is too large, or
            is no text.
    """
    try:
        return bytes_of(path, LARGEST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StillhouseError(f"'{path}' can't be read: it is no text in UTF-8.") from error


def bytes_of(path: str | Path, most: int | None = None) -> bytes:
    """The bytes of a file.

    Arguments:
        path: of the file.
        most: that it may have; None: any number.

    Returns:
        The bytes; raises :class:`StillhouseError` as :func:`text_of` does.
    """
    path = Path(path)
    present(path)
    try:
        size = path.stat().st_size
        require(most is None or size <= most, f"'{path}' has {size:,} bytes, more than any file of its kind.")
        return path.read_bytes()
    except OSError as error:
        raise StillhouseError(f"'{path}' can't be read: {error.strerror or error}.") from error


def present(path: Path) -> None:
    """Refuse a path at which there is nothing to read, or a folder, pipe or device."""
    try:
        there, regular = path.exists(), path.is_file()
    except OSError as error:
        raise StillhouseError(f"'{path}' can't be read: {error.strerror or error}.") from error
    require(there, f"There is no file '{path}'.")
    require(regular, f"'{path}' can't be read: it is no file, but a folder, pipe or device.")


def json_text(text: str | bytes, structure: Structure, source: str) -> Any:
    """What a text holds as JSON.

    Arguments:
        text: UTF-8.
        structure: that it must be of, see :data:`stillhouse.core.structure.Structure`.
        source: what the text is, for the sentence: "'state.json'", "The header of 'model.safetensors'".

    Returns:
        The plain data.

    Raises:
        StillhouseError: for a text that is no whole JSON, and for data of another structure.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StillhouseError(f"{source} can't be read: it is no JSON ({reason}).") from error
    return checked(found, structure, f"{source} can't be read")


def json_of(path: str | Path, structure: Structure = dict) -> Any:
    """What a JSON file holds.

    Arguments:
        path: of the file.
        structure: that it must be of; a table unless given.

    Returns:
        The plain data; raises :class:`StillhouseError` as :func:`text_of` and :func:`json_text` do.
    """
    return json_text(text_of(path), structure, f"'{path}'")


def tensors_of(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name; raises :class:`StillhouseError` for a missing, torn or
    foreign file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    present(Path(path))
    try:
        found: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise StillhouseError(_torn(path, error)) from error
    return found


def metadata_of(path: str | Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file; raises :class:`StillhouseError` likewise."""
    with opened(path) as file:
        return dict(file.metadata() or {})


def opened(path: str | Path) -> Any:
    """A safetensors file, open for its names, metadata and tensors, a context; raises
    :class:`StillhouseError` likewise."""
    from safetensors import SafetensorError, safe_open

    present(Path(path))
    try:
        return safe_open(str(path), "pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise StillhouseError(_torn(path, error)) from error


def _torn(path: str | Path, error: Exception) -> str:
    return f"'{path}' is no whole safetensors file (cut short while copied?): {error}."
