"""The images of a data set, wherever users keep them: as files, in parquet files, in tar shards. Nothing is
fetched, no script is run.

The whole folder decides: of the three kinds that one is read which holds most pictures, and all that isn't
read is named (:class:`stillhouse.io.data.contents.Contents`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.data.files import walk
from stillhouse.io.data.folder import CAPTION_FILES, METADATA, Folder
from stillhouse.io.data.rows import UNREAD, Source, is_picture
from stillhouse.io.data.shards import Parquet, Shards, Tars
from stillhouse.io.data.tables import TABLES


def open_source(path: str | Path) -> Source:
    """The images of a folder (image files, parquet files or tar shards, also in folders below it) or of one
    such file. ``contents`` of the result is what was found, and what is left out.

    Raises :class:`StillhouseError` where there is nothing of the kind, or a file of it can't be read at all.
    """
    path = Path(path)
    require(path.exists(), f"There is no data at '{path}'.")
    files, hidden = walk(path)
    found = _candidates(path, files)
    best = max((s for s in found if s.contents.pictures), key=_weight, default=None)
    if best is None:
        raise StillhouseError(_nothing(path, files, found))
    for other in found:
        if other is not best and other.contents.pictures:
            best.contents.leave(
                f"of the {other.contents.kind}, since more pictures lie in {best.contents.kind}",
                (f.relative_to(path).as_posix() for f in _read(other) - _read(best)),
            )
    left = set(files) - _read(best) - {file for other in found for file in _read(other)}
    _leave_rest(path, best, sorted(left))
    for reason, names in hidden.items():
        best.contents.leave(reason, names)
    return best


def _candidates(path: Path, files: Sequence[Path]) -> list[Source]:
    """A source for each kind of file that there is."""
    found: list[Source] = []
    tables = [f for f in files if f.stem.lower() == METADATA and f.suffix.lower() in TABLES]
    parquet = [f for f in files if f.suffix.lower() == ".parquet" and f not in tables]
    tars = [f for f in files if f.suffix.lower() == ".tar"]
    if parquet or any(f.suffix.lower() == ".parquet" for f in tables):
        _needs_datasets()
    if parquet:
        found.append(Parquet(path, parquet))
    if tars:
        found.append(Tars(path, tars))
    if tables or any(map(is_picture, files)):
        found.append(Folder(path, files))
    return found


def _weight(source: Source) -> tuple[bool, int]:
    """Parquet files that name pictures beside them come before those pictures; else the number decides, and
    of equals the first."""
    return isinstance(source, Parquet) and bool(source.named), source.contents.pictures


def _read(source: Source) -> set[Path]:
    """The files that a source reads."""
    if isinstance(source, Folder):
        return source.used
    assert isinstance(source, Shards)
    named = source.named.values() if isinstance(source, Parquet) else ()
    return {*source.splits, *(picture for pictures in named for picture in pictures)}


def _leave_rest(path: Path, source: Source, files: Sequence[Path]) -> None:
    """Note every file that is read by no source and not yet named."""
    known = {name for names in source.contents.left_out.values() for name in names}
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        ending = file.suffix.lower()
        if name in known:
            continue
        if ending.removeprefix(".") in UNREAD:
            reason = f"{ending} picture(s), which are not read"
        elif is_picture(file):
            reason = "picture(s) as files"
        elif ending in CAPTION_FILES:
            reason = f"{ending} file(s) that belong to no picture"
        else:
            reason = f"{ending or 'other'} file(s), which are not read"
        source.contents.leave(reason, name)


def _nothing(path: Path, files: Sequence[Path], found: Sequence[Source]) -> str:
    """The error's sentence where there are no pictures."""
    missing = next((source.useless() for source in found if source.skipped), "")
    unfit = next((s.unfit[0] for s in found if isinstance(s, Shards) and s.unfit), "")
    neither = f"'{path}' holds no usable image: neither image files, nor parquet files, nor tar shards."
    arrow = (
        f"'{path}' holds Arrow files, as Dataset.save_to_disk writes them; write parquet files: "
        f"datasets.load_from_disk('{path}').to_parquet('data.parquet')."
    )
    return missing or unfit or (arrow if any(f.suffix.lower() == ".arrow" for f in files) else neither)


def _needs_datasets() -> None:
    from importlib.util import find_spec

    require(
        find_spec("datasets") is not None,
        "Parquet files need the datasets library: pip install 'stillhouse[pipelines]'.",
    )
