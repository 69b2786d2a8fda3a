"""Encoded once, kept: latents of images and conditions of captions in safetensors shards beside an
``index.json``.

``index.json`` holds the key (what made the shards), ``probe.safetensors`` the encoders' answers to a fixed
question, ``digests.json`` what the bytes of the source's files were, and ``shard-00000.safetensors`` … the
rows: each shard those of one stretch of the source, so that work goes on where it was cut off. In a shard the
tensors of one picture size stand together: ``512x768/x``, ``512x768/cond.tokens``.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from stillhouse.core.conditions import Condition, restored
from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.core.structure import checked
from stillhouse.io.checked import json_of, json_text, opened, tensors_of
from stillhouse.io.weights import atomic_write

log = logging.getLogger("stillhouse")

INDEX, PROBE, DIGESTS, HEADER = "index.json", "probe.safetensors", "digests.json", "stillhouse"
# what the index holds while the cache is being made, and in the end; and the header of a shard
BEGUN = {"key": dict, "probe": [str], "shape": ([int], None), "complete": bool}
FINISHED = {**BEGUN, "labelled": bool, "skipped": {"*": str}, "shards": [{"*": int}]}
NOTE = {"rows": {"*": [[(str, None)]]}, "held?": {"*": [int]}, "skipped": {"*": str}, "labelled": bool}
ALIKE = 0.01  # relative difference of two answers to the probe that rounding explains (bf16 beside float32)
SAID = {
    "source": "other data (files were added, removed or changed)",
    "encoded": "another kind of encoding",
    "size": "another picture size",
    "sizes": "other picture sizes",
    "channels": "another number of channels",
    "classes": "another number of classes",
    "dtype": "another number format",
    "shard": "another shard length",
}


class Cache:
    """A finished cache, read row by row from memory-mapped files. Raises :class:`StillhouseError` if it is
    unfinished or damaged.

    ``counts``: rows by picture size, as ``"512x768"`` (``""`` for prompts alone). ``shape``: of one row's
    latent at the key's size, None for prompts. ``skipped``: by name, why a row of the source is not here.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        unfinished = f"The cache in '{self.folder}' is not finished; encode its data to the end."
        index = required(_index(self.folder), unfinished)
        require(index["complete"], unfinished)
        self.key: dict[str, Any] = index["key"]
        self.shape: tuple[int, ...] | None = tuple(index["shape"]) if index["shape"] else None
        self.labelled: bool = index["labelled"]
        self.skipped: dict[str, str] = index["skipped"]
        self._rows: list[dict[str, int]] = index["shards"]
        self.counts: Counter[str] = Counter()
        for rows in self._rows:
            self.counts.update(rows)
        self._ends = {
            tag: torch.tensor([rows.get(tag, 0) for rows in self._rows]).cumsum(0) for tag in self.counts
        }
        self._open: dict[int, dict[str, Tensor]] = {}

    def notes(self) -> Iterator[tuple[str, str, str | None]]:
        """Size, name and caption of every row, those of one size in the order that :meth:`read` counts
        them."""
        return ((tag, name, caption) for tag, name, caption, _ in self.entries())

    def entries(self) -> Iterator[tuple[str, str, str | None, bool]]:
        """As :meth:`notes`, and whether the row is of a split that is held out."""
        for number in range(len(self._rows)):
            note = _note(_shard(self.folder, number))
            for tag, rows in note["rows"].items():
                held = set(note.get("held", {}).get(tag, []))
                for row, (name, caption) in enumerate(rows):
                    yield tag, name, caption, row in held

    def read(self, tag: str, index: Tensor) -> tuple[Tensor | None, Condition]:
        """Rows of one picture size, in float32 whatever they are kept in.

        Arguments:
            tag: the size, a key of ``counts``.
            index: which of its rows, (B,) int64.

        Returns:
            Latents (B, *shape), None in a cache of prompts; and their condition, None for none.
        """
        ends = self._ends[tag]
        shards = torch.bucketize(index, ends, right=True)
        rows: dict[str, Tensor] = {}
        for shard in shards.unique().tolist():
            where = (shards == shard).nonzero()[:, 0]
            inside = index[where] - (int(ends[shard - 1]) if shard else 0)
            for name, kept in self._tensors(shard).items():
                if not name.startswith(f"{tag}/"):
                    continue
                name = name.removeprefix(f"{tag}/")
                if name not in rows:
                    dtype = torch.float32 if kept.is_floating_point() else kept.dtype
                    rows[name] = torch.empty(len(index), *kept.shape[1:], dtype=dtype)
                rows[name][where] = kept[inside].to(rows[name].dtype)
        found = restored(rows)
        return found.get("x"), found.get("cond")

    def _tensors(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._open:
            with _whole(_shard(self.folder, shard)) as file:
                self._open[shard] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (mapped, not read)
        return self._open[shard]


def open_cache(folder: str | Path) -> Cache:
    """The finished cache in ``folder``."""
    return Cache(folder)


def fill(
    folder: str | Path,
    key: Mapping[str, Any],
    probe: Callable[[list[str] | None], tuple[dict[str, Tensor], list[str]]],
    rows: Iterator[Any],
    make: Callable[[Iterator[Any]], tuple[dict[str, Tensor], dict[str, Any]]],
    *,
    refresh: bool = False,
    place: tuple[int, int] = (0, 1),
    tick: Callable[[int], object] = lambda n: None,
) -> Cache:
    """Make every shard that is not there yet, and the cache's index.

    Arguments:
        folder: of the cache, made if missing.
        key: plain data that identifies the cache; ``key["shard"]``: rows of a shard.
        probe: ``probe(prompts)`` gives the encoders' answers to those prompts (None: to prompts of its
            choice) and the prompts.
        rows: of the source, all of them.
        make: ``make(rows)`` gives one shard's tensors and note from ``key["shard"]`` rows at most.
        refresh: begin anew, in one process only.
        place: this process and their number; each makes its share of the shards and waits for the others'.
        tick: ``tick(n)`` is called for ``n`` rows passed over: made already, or another process's.

    Returns:
        The finished cache; raises :class:`StillhouseError` where ``folder`` holds one of another key or other
        encoders.
    """
    folder, (rank, world) = Path(folder), place
    require(not folder.exists() or folder.is_dir(), f"The cache '{folder}' is a file, not a folder.")
    require(not refresh or world == 1, "Refresh a cache in one process, then start the others.")
    if refresh:
        _clear(folder)
    wanted: dict[str, Any] = json.loads(json.dumps(key))  # as it will be read back
    index = _index(folder)
    if _outdated(index, wanted):
        if rank == 0:
            _remake(folder, index or {}, wanted, probe)
        _wait_for(lambda: not _outdated(_index(folder), wanted))
        index = _index(folder)
    if index is None and rank == 0:
        index = _begin(folder, wanted, probe)
    else:
        _wait_for(lambda: _index(folder) is not None)  # the first process makes it
        index = _index(folder) or {}
        _same_key(folder, index["key"], wanted)
        _same_encodings(folder, probe, index["probe"])
    if index["complete"] and all(_shard(folder, n).exists() for n in range(len(index["shards"]))):
        return Cache(folder)
    number = 0
    while first := list(islice(rows, 1)):
        stretch = chain(first, islice(rows, wanted["shard"] - 1))
        path = _shard(folder, number)
        if not path.exists() and number % world == rank:
            tensors, note = make(stretch)
            atomic_write(path, save(tensors, {HEADER: json.dumps(note)}))
        else:
            tick(sum(1 for _ in stretch))
        number += 1
    notes = []
    for path in (_shard(folder, n) for n in range(number)):
        _wait_for(path.exists)
        notes.append(_note(path))
    if rank == 0:
        _finish(folder, index, notes)
    _wait_for(lambda: bool((_index(folder) or {}).get("complete")))
    return Cache(folder)


def _begin(
    folder: Path, key: dict[str, Any], probe: Callable[[None], tuple[dict[str, Tensor], list[str]]]
) -> dict[str, Any]:
    """A new cache's first two files."""
    left = [f.name for f in folder.glob("shard-*.safetensors")]
    require(
        not left,
        f"'{folder}' holds shards ({left[0] if left else ''} …) but no {INDEX} that describes them; "
        "empty it or refresh it.",
    )
    answers, prompts = probe(None)
    atomic_write(folder / PROBE, save(answers))
    shape = list(answers["x"].shape[1:]) if "x" in answers else None
    index = {"format": 1, "key": key, "probe": prompts, "shape": shape, "complete": False}
    atomic_write(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())
    return index


def _finish(folder: Path, index: dict[str, Any], notes: list[dict[str, Any]]) -> None:
    skipped = {name: why for note in notes for name, why in note["skipped"].items()}
    counts = [{tag: len(rows) for tag, rows in note["rows"].items()} for note in notes]
    if not any(map(sum, (c.values() for c in counts))):
        name, why = next(iter(skipped.items()), ("", "there are no rows"))
        _clear(folder)
        raise StillhouseError(f"None of the {len(skipped)} images can be used (the first, '{name}': {why}).")
    index = {
        **index,
        "complete": True,
        "labelled": any(n["labelled"] for n in notes),
        "skipped": skipped,
        "shards": counts,
    }
    atomic_write(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())


def _outdated(index: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    return index is not None and index["key"].get("reader") != wanted.get("reader")


def _remake(folder: Path, index: dict[str, Any], wanted: dict[str, Any], probe: Any) -> None:
    """Clear what an earlier version made of the same data by the same encoders."""
    same = {name: index["key"].get(name) for name in ("reader", "source")}
    _same_key(folder, index["key"], {**wanted, **same})
    _same_encodings(folder, probe, index["probe"])
    log.warning(
        "The cache in '%s' is of an earlier version, which neither kept splits apart nor noticed edited "
        "pictures; "
        "it is made anew.",
        folder,
    )
    _clear(folder)


def _same_key(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    for name in [*SAID, *here]:
        if there.get(name) == here.get(name):
            continue
        shown = "" if name in ("source", "sizes") else f" ({there.get(name)} there, {here.get(name)} now)"
        raise StillhouseError(_refused(folder, SAID.get(name, f"another {name}") + shown))


def _same_encodings(
    folder: Path, probe: Callable[..., tuple[dict[str, Tensor], list[str]]], prompts: list[str]
) -> None:
    """The encoders are recognised by their output, not by their files: a codec in another folder or precision
    is still the same one."""
    try:
        there = tensors_of(folder / PROBE)
    except StillhouseError as error:
        raise StillhouseError(f"The cache in '{folder}' has lost its {PROBE}; refresh it.") from error
    try:
        here, _ = probe(prompts)
    except StillhouseError as error:
        raise StillhouseError(
            _refused(folder, f"another text encoder (this one can't take its captions: {error})")
        ) from error
    for name in sorted({*there, *here}):
        who = "another codec" if name == "x" else "another text encoder"
        if name not in there or name not in here:
            raise StillhouseError(_refused(folder, f"{who} ({name} is {'new' if name in here else 'gone'})"))
        a, b = there[name], here[name]
        if a.shape != b.shape:
            raise StillhouseError(
                _refused(
                    folder, f"{who} ({name} of shape {tuple(a.shape[1:])} there, {tuple(b.shape[1:])} now)"
                )
            )
        gap = float((a.double() - b.double()).norm() / a.double().norm().clamp_min(1e-12))
        if not gap <= ALIKE:
            raise StillhouseError(_refused(folder, f"{who} ({name} differs by {gap:.2g} of its length)"))


def _refused(folder: Path, by: str) -> str:
    return f"The cache in '{folder}' was made with {by}; name another folder, or refresh it to encode anew."


def _index(folder: Path) -> dict[str, Any] | None:
    path = folder / INDEX
    if not path.exists():
        return None
    try:
        index: dict[str, Any] = json_of(path, {"format": int})
        if index["format"] != 1:
            return None
        return checked(index, FINISHED if index.get("complete") is True else BEGUN, f"'{path}'")  # type: ignore[no-any-return]
    except StillhouseError as error:
        if not path.exists():  # another process has begun anew since
            return None
        raise StillhouseError(
            f"'{path}' is not the index of a cache ({str(error).rstrip('.')}); remove it, or name another "
            "folder."
        ) from error


def _clear(folder: Path) -> None:
    """Remove what a cache consists of, and nothing else; the index last, since without it nothing else may
    lie there."""
    for path in [*folder.glob("shard-*.safetensors"), folder / PROBE, folder / DIGESTS, folder / INDEX]:
        path.unlink(missing_ok=True)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _whole(path: Path) -> Any:
    try:
        return opened(path)
    except StillhouseError as error:
        raise StillhouseError(
            f"The shard '{path}' is missing or damaged ({str(error).rstrip('.')}); delete it and encode "
            "again, or refresh it."
        ) from error


def _note(path: Path) -> dict[str, Any]:
    with _whole(path) as file:
        note: dict[str, Any] = json_text(
            (file.metadata() or {}).get(HEADER, ""), NOTE, f"The header of '{path}'"
        )
        return note


def _wait_for(there: Callable[[], bool]) -> None:
    while not there():
        time.sleep(0.2)
