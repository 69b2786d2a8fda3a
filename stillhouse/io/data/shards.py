"""Parquet files and tar shards of images with captions."""

from __future__ import annotations

import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path, PurePath
from typing import Any

from stillhouse.core.errors import StillhouseError, required
from stillhouse.io.checked import json_text
from stillhouse.io.data.contents import Contents
from stillhouse.io.data.rows import IMAGES, Row, Source, is_picture, one_a_caption
from stillhouse.io.data.splits import BESIDE, SPLITS, TRAIN, places, split_named
from stillhouse.io.data.tables import CAPTIONS, captions_of, label_of, numbered
from stillhouse.io.inside import inside

BINARY = ("binary", "large_binary")
COLUMNS = (*CAPTIONS, "label", "split")
BESIDE_PICTURES = ("txt", "caption", "json", "cls")  # in a tar


class Shards(Source):
    """What parquet files and tar shards share: files of many rows each, whose names may be those of splits.

    Arguments:
        path: of the data set.
        files: of one kind; those that hold no images are left out.
        kind: as in "parquet files".
    """

    def __init__(self, path: Path, files: Sequence[Path], kind: str):
        super().__init__(path, Contents(path, kind))
        self.root = path if path.is_dir() else path.parent
        found = places([PurePath(file.relative_to(self.root)) for file in files], by_name=path.is_dir())
        splits = {file: found[PurePath(file.relative_to(self.root))].split or TRAIN for file in files}
        self.contents.leave(
            f"of the {kind} beside those of the splits",
            [self._short(f) for f in files if splits[f] == BESIDE],
        )
        self.splits = {file: split for file, split in splits.items() if split != BESIDE}
        self.unfit: list[str] = []
        labels: set[int | str | None] = set()
        for file in list(self.splits):
            before = self.contents.pictures
            for captions, label, split in self.scan(file):
                self.contents.add(split, captions=captions, label=label is not None)
                labels.add(label)
            if self.contents.pictures > before:
                self.contents.formats[file.suffix.lower().removeprefix(".")] += 1
            else:
                self.splits.pop(file)
                self.contents.leave(f"of the {kind} without images", self._short(file))
        self.numbers = numbered(labels)
        self.contents.classes = list(map(str, self.numbers))

    def scan(self, file: Path) -> Iterator[tuple[int, int | str | None, str]]:
        """Number of captions, label and split of each picture in a file, without its image. Why a file holds
        none, if that can be put into words, goes to ``unfit``."""
        raise NotImplementedError

    def parts(self) -> list[tuple[object, Path | None]]:
        return [((self._short(f), self.splits[f]), f) for f in self.files_of(self.contents.used)]

    def files_of(self, splits: Sequence[str]) -> list[Path]:
        """The files that hold rows of these splits."""
        return [file for file, split in self.splits.items() if split in splits or self._mixed(file)]

    def _mixed(self, file: Path) -> bool:
        """Whether rows of a file may be of several splits."""
        return False

    def _short(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _number(self, label: int | str | None) -> int | None:
        return None if label is None else self.numbers[label]

    def _split(self, file: Path, named: Any) -> str:
        return (split_named(str(named)) if named else "") or self.splits[file]


class Parquet(Shards):
    """Parquet files with a column of images (bytes, or bytes and path), ``text`` or the like, ``label``, and
    ``split``."""

    def __init__(self, path: Path, files: Sequence[Path]):
        self.columns: dict[Path, dict[str, str]] = {}  # by what is in it, the name of the column
        self.named: dict[Path, list[Path]] = {}  # pictures outside of a file that it names
        self.twice: set[Path] = set()  # files that have one name for several pictures
        super().__init__(path, files, "parquet files")

    def scan(self, file: Path) -> Iterator[tuple[int, int | str | None, str]]:
        from pyarrow import ArrowException, parquet

        try:
            opened = parquet.ParquetFile(file)
        except (ArrowException, OSError) as error:
            raise StillhouseError(
                f"'{file}' is no whole parquet file: {str(error).splitlines()[0]}"
            ) from error
        kinds = {field.name: str(field.type) for field in opened.schema_arrow}
        pictures = [
            n for n, kind in kinds.items() if kind in BINARY or kind.startswith("struct<bytes: binary")
        ]
        picture = next((n for n in ("image", "img", *IMAGES) if n in pictures), next(iter(pictures), None))
        if picture is None:
            self.unfit.append(f"'{file}' has no column of images; its columns are {', '.join(kinds)}.")
            return
        columns = {name.lower(): name for name in kinds if name.lower() in COLUMNS and name != picture}
        self.columns[file] = {"": picture, **columns}
        path = [f"{picture}.path"] if "path: string" in kinds[picture] else []
        names = set[str]()
        with opened:
            for batch in opened.iter_batches(columns=[*columns.values(), *path]):
                rows = batch.to_pylist() if batch.num_columns else [{}] * batch.num_rows
                for row in rows:
                    where = (row.get(picture) or {}).get("path") if path else None
                    beside = inside(self.root, file.parent, where) if where else None
                    if where in names:
                        self.twice.add(file)
                    names |= {where} if where else set()
                    if beside is not None and beside.is_file():
                        self.named.setdefault(file, []).append(beside)
                    entry = {name: row[column] for name, column in columns.items()}
                    split = self._split(file, entry.get("split"))
                    yield len(captions_of(entry)), label_of(entry.get("label")), split

    def parts(self) -> list[tuple[object, Path | None]]:
        files = self.files_of(self.contents.used)
        beside = [(self._short(named), named) for file in files for named in self.named.get(file, [])]
        return [*super().parts(), *beside]

    def _mixed(self, file: Path) -> bool:
        return "split" in self.columns[file]

    def all_rows(self, splits: Sequence[str] = SPLITS) -> Iterator[Row]:
        import datasets

        for file in self.files_of(splits):
            columns = self.columns[file]
            picture = columns[""]
            with _reading(file, columns=list(columns.values())) as stream:
                for index, row in enumerate(stream.cast_column(picture, datasets.Image(decode=False))):
                    found = row[picture] or {}
                    where = found.get("path")
                    beside = inside(self.root, file.parent, where) if where else None
                    entry = {name: row[column] for name, column in columns.items() if name}
                    name = f"{self._short(file)}:{index if not where or file in self.twice else where}"
                    label = self._number(label_of(entry.get("label")))
                    split = self._split(file, entry.get("split"))
                    yield from one_a_caption(
                        Row(name, found.get("bytes") or beside, None, label, split), captions_of(entry)
                    )


class Tars(Shards):
    """Webdataset shards: in each ``.tar``, files of one name up to its first dot that follow one another are
    one row, e.g. ``7.jpg`` and ``7.txt`` (or ``7.json``, ``7.cls``).

    A shard that breaks off is reported; the rows before the break are used.
    """

    def __init__(self, path: Path, files: Sequence[Path]):
        super().__init__(path, files, "tar shards")

    def scan(self, file: Path) -> Iterator[tuple[int, int | str | None, str]]:
        for name, content, captions, label in self._samples(file, whole=False):
            if content is None:
                self.contents.leave("row(s) of tar shards without an image", f"{self._short(file)}:{name}")
            else:
                yield len(captions), label, self.splits[file]

    def all_rows(self, splits: Sequence[str] = SPLITS) -> Iterator[Row]:
        for file in self.files_of(splits):
            split = self.splits[file]
            for name, content, captions, label in self._samples(file, whole=True):
                if content is not None:
                    row = Row(f"{self._short(file)}:{name}", content, None, self._number(label), split)
                    yield from one_a_caption(row, captions)

    def _samples(
        self, file: Path, whole: bool
    ) -> Iterator[tuple[str, bytes | None, list[str], int | str | None]]:
        """Name, image (None: there is none), captions and label of each row; unless ``whole``, images are
        passed over and empty."""
        key, fields = "", dict[str, bytes]()
        try:
            with tarfile.open(file, "r:*") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    base, _, ending = name.partition(".")
                    if not member.isreg() or name.startswith((".", "__")) or not ending:
                        continue
                    if (mine := f"{folder}/{base}" if folder else base) != key:
                        yield from _pictures(key, fields)
                        key, fields = mine, {}
                    ending = ending.lower()
                    picture = is_picture(f".{ending}")
                    if picture or ending.rpartition(".")[2] in BESIDE_PICTURES:
                        opened = required(archive.extractfile(member), f"'{file}' can't be read.")
                        if picture and not whole:
                            opened.seek(max(0, member.size - 1))  # the last byte is there, or it breaks off
                            fields.setdefault(ending, opened.read()[:0])
                        else:
                            fields.setdefault(ending, opened.read())
                    archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            if not whole:
                self.skipped[self._short(file)] = f"the shard breaks off ({error})"
                self.contents.leave("tar shard(s) from where they break off", self._short(file))
        yield from _pictures(key, fields)


def _pictures(
    key: str, fields: dict[str, bytes]
) -> Iterator[tuple[str, bytes | None, list[str], int | str | None]]:
    """The pictures among the files of one name: the plainly named one, or each of those with more in their
    names."""
    if not fields:
        return
    plain = next((kind for kind in IMAGES if kind in fields), None)
    several = [name for name in fields if is_picture(f".{name}")] if plain is None else []
    if plain is None and not several:
        yield key, None, [], None
    for ending in [plain] if plain else several:
        stem = ending.rpartition(".")[0]
        side = {
            kind: fields.get(f"{stem}.{kind}" if stem else kind, fields.get(kind, b""))
            for kind in BESIDE_PICTURES
        }
        name = f"{key}.{stem}" if stem else key
        yield name, fields[ending], _captions(side), label_of(side["cls"].decode("utf-8", "replace"))


def _captions(side: dict[str, bytes]) -> list[str]:
    for kind in ("txt", "caption"):
        if text := " ".join(side[kind].decode("utf-8-sig", "replace").split()):
            return [text]
    try:
        about = json_text(side["json"], dict, "A caption")
    except StillhouseError:
        return []
    return captions_of({name.lower(): value for name, value in about.items()})


@contextmanager
def _reading(file: Path, **options: Any) -> Iterator[Any]:
    """A parquet file as a stream of the ``datasets`` library, which is kept off the network and leaves
    nothing behind."""
    import datasets

    try:
        with tempfile.TemporaryDirectory() as lock:
            before = datasets.config.HF_HUB_OFFLINE
            datasets.config.HF_HUB_OFFLINE = True  # else it counts a "download" at its makers'
            try:
                stream = datasets.load_dataset(
                    "parquet",
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
