"""Parquet files and tar shards of images with captions, through the ``datasets`` library."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.data.prompts import caption_of
from stillhouse.io.data.rows import IMAGES, Row, Source, label_of

ENDS = 1 << 16  # bytes of a large file's head and tail that go into its fingerprint


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
                    yield Row(name, content, caption_of(entry), label_of(entry.get("label")))


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
