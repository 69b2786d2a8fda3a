"""Images with captions where users keep them: a folder, parquet files, tar shards. Read row by row, nothing
fetched, no script run.

Parquet and webdataset tars go through the ``datasets`` library. A folder is listed here, so that a missing
image can be named and left out, and captions may lie in text files.
"""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.data.prompts import caption_of, read_table, read_text

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("stillhouse")

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
TABLES = ("metadata.csv", "metadata.jsonl")
ENDS = 1 << 16  # bytes of a large file's head and tail that go into its fingerprint


@dataclass(frozen=True)
class Row:
    """One image before it is opened: where it is (or its bytes, or None), its caption and its class."""

    name: str
    content: Path | bytes | None
    caption: str | None = None
    label: int | None = None


class Source:
    """Images with captions. Iterating opens them: (name, image or None, caption or None) each.

    ``count``: number of rows, None where only reading tells. ``fingerprint``: changes when the files do.
    ``skipped``: by name, why an image could not be used; each is logged once.
    """

    count: int | None = None

    def __init__(self, path: Path, fingerprint: str):
        self.path, self.fingerprint, self.skipped = path, fingerprint, dict[str, str]()

    def rows(self) -> Iterator[Row]:
        """Every row in a fixed order, unopened."""
        raise NotImplementedError

    def open(self, row: Row) -> Image | None:
        """The row's image, whole; None if it is missing or broken, which is noted and logged."""
        from PIL import Image

        try:
            if row.content is None:
                raise FileNotFoundError("it has no image")
            image = Image.open(io.BytesIO(row.content) if isinstance(row.content, bytes) else row.content)
            image.load()
            return image
        except Image.UnidentifiedImageError:
            self.skip(row.name, "it is no image")
        except FileNotFoundError as error:
            self.skip(row.name, "it is missing" if error.strerror else str(error))
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            struct.error,
            Image.DecompressionBombError,
        ) as error:
            self.skip(row.name, f"it is broken ({str(error).rstrip('.') or type(error).__name__})")
        return None

    def skip(self, name: str, reason: str) -> None:
        """Note that an image can't be used; the first time it is logged.

        Arguments:
            name: of its row.
            reason: as in "it is missing".
        """
        if name not in self.skipped:
            log.warning("Skipped '%s': %s.", name, reason)
        self.skipped[name] = reason

    def __iter__(self) -> Iterator[tuple[str, Image | None, str | None]]:
        usable = False
        for row in self.rows():
            image = self.open(row)
            usable = usable or image is not None
            yield row.name, image, row.caption
        require(usable, self.useless())

    def useless(self) -> str:
        """The error's sentence when not one image could be used."""
        first = next(iter(self.skipped.items()), None)
        why = f" (the first, '{first[0]}': {first[1]})" if first else ""
        return f"'{self.path}' holds no usable image{why}."


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
                    _label(entry.get("label")),
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


class Parquet(Source):
    """Parquet files with a column of images (bytes, or bytes and path), ``text`` or the like, and
    ``label``."""

    def __init__(self, path: Path, files: list[Path]):
        from pyarrow import ArrowException, parquet

        self.files, self.columns = files, dict[Path, list[str]]()
        self.count = 0
        for file in files:
            try:
                header = parquet.read_metadata(file)
                schema = parquet.read_schema(file)
            except (ArrowException, OSError) as error:
                raise StillhouseError(
                    f"'{file}' is no whole parquet file: {str(error).splitlines()[0]}"
                ) from error
            kinds = {field.name: str(field.type) for field in schema}
            pictures = [
                n
                for n, kind in kinds.items()
                if kind in ("binary", "large_binary") or kind.startswith("struct<bytes: binary")
            ]
            named = [n for n in ("image", "img", *IMAGES) if n in pictures] or pictures
            require(bool(named), f"'{file}' has no column of images; its columns are {', '.join(kinds)}.")
            self.columns[file] = [
                named[0],
                *(n for n in ("text", "caption", "prompt", "label") if n in kinds),
            ]
            self.count += header.num_rows
        super().__init__(path, _of_files(path, files))

    def rows(self) -> Iterator[Row]:
        import datasets

        for file in self.files:
            columns = self.columns[file]
            with _reading("parquet", file, columns=columns) as stream:
                for index, entry in enumerate(stream.cast_column(columns[0], datasets.Image(decode=False))):
                    picture = entry[columns[0]] or {}
                    where = picture.get("path")
                    content = picture.get("bytes") or (file.parent / where if where else None)
                    name = f"{_short(self.path, file)}:{where or index}"
                    yield Row(name, content, caption_of(entry), _label(entry.get("label")))


class Tars(Source):
    """Webdataset shards: in each ``.tar``, files of one name are one row, e.g. ``7.jpg`` and ``7.txt`` (or
    ``7.json``, ``7.cls``).

    A shard that breaks off is reported; the rows before the break are used.
    """

    def __init__(self, path: Path, files: list[Path]):
        self.files = files
        super().__init__(path, _of_files(path, files))

    def rows(self) -> Iterator[Row]:
        import tarfile

        import datasets

        kinds: dict[str, Any] = {kind: datasets.Image(decode=False) for kind in IMAGES}
        kinds |= {"txt": datasets.Value("string"), "json": datasets.Json(), "cls": datasets.Value("int64")}
        kinds |= {key: datasets.Value("string") for key in ("__key__", "__url__")}
        for file in self.files:
            try:
                # all we look for is declared: left to itself, the library refuses shards whose rows don't all
                # hold the same
                with _reading("webdataset", file, features=datasets.Features(kinds)) as stream:
                    for entry in stream:
                        picture: dict[str, Any] = next(
                            (entry[kind] for kind in IMAGES if entry[kind] is not None), {}
                        )
                        caption = caption_of({"text": entry["txt"]}) or caption_of(
                            entry["json"] if isinstance(entry["json"], dict) else {}
                        )
                        name = f"{_short(self.path, file)}:{entry['__key__']}"
                        yield Row(name, picture.get("bytes"), caption, entry["cls"])
            except (tarfile.TarError, EOFError) as error:
                self.skip(_short(self.path, file), f"the shard breaks off ({error})")


@contextmanager
def _reading(kind: str, file: Path, **options: Any) -> Iterator[Any]:
    """One file as a stream of the ``datasets`` library, which is kept off the network and leaves nothing
    behind."""
    import datasets

    try:
        with tempfile.TemporaryDirectory() as lock:
            before = datasets.config.HF_HUB_OFFLINE
            datasets.config.HF_HUB_OFFLINE = True  # else it counts a "download" at its makers'
            try:
                stream = datasets.load_dataset(
                    kind,
                    data_files=[escape(str(file))],
                    split="train",
                    streaming=True,
                    cache_dir=lock,
                    **options,
                )
            finally:
                datasets.config.HF_HUB_OFFLINE = before
            yield stream
    except ValueError as error:  # theirs and Arrow's
        raise StillhouseError(f"'{file}' can't be read: {str(error).splitlines()[0]}") from error


def _label(value: Any) -> int | None:
    try:
        return None if value in (None, "") else int(value)
    except (TypeError, ValueError) as error:
        raise StillhouseError(f"A label is a whole number, not {value!r}.") from error


def _short(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file != root else file.name


def _of_files(root: Path, files: list[Path]) -> str:
    """A fingerprint of large files: names, sizes, first and last bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            digest.update(repr((_short(root, file), size)).encode() + opened.read(ENDS))
            opened.seek(max(0, size - ENDS))
            digest.update(opened.read())
    return digest.hexdigest()


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
