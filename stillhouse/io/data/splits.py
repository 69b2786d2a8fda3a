"""Which part of a data set is learnt from, and which is held out: by the names of folders and of shards.

The words, and what may stand around them, are those of the ``datasets`` library. What differs is that the
names beside one another decide together: a class may be named as a split is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "dev", "val"),
    TEST: ("test", "testing", "eval", "evaluation"),
}
BESIDE = "beside"  # neither learnt from nor held out: it lies where everything else is split
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_SHARD = re.compile(r"-\d+-of-\d+.*$")  # of "train-00000-of-00004"


@dataclass(frozen=True)
class Place:
    """Where a file belongs: the split (empty: nothing around it is split), and its folders without the
    split's."""

    split: str
    folders: tuple[str, ...]


def split_named(name: str) -> str:
    """The split that a word stands for, empty for none: "val" for validation."""
    found = _word(name)
    return found[0] if found and not found[1] else ""


def _word(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a name holds a word of, and the name's other words."""
    parts = [part for part in re.split(r"[-._ 0-9]+", _SHARD.sub("", name.lower())) if part]
    found = {_SPLIT_OF[part] for part in parts if part in _SPLIT_OF}
    rest = tuple(part for part in parts if part not in _SPLIT_OF)
    return (found.pop(), rest) if len(found) == 1 else None


def split_siblings(names: Iterable[str]) -> dict[str, str]:
    """The splits among names that stand beside one another.

    A name that is a word of validation or test always is that split. "test_images" is, where "train_images"
    stands beside it or all names are of splits; and "train" is one where something is held out beside it, or
    all names are of splits.

    Arguments:
        names: of folders, or of shards without their endings.

    Returns:
        The split by name. Where there is one to learn from, every other name is :data:`BESIDE`; where there
        is none, other names are missing here.
    """
    names = set(names)
    found = {name: word for name in names if (word := _word(name))}
    every = len(found) == len(names)

    def counts(name: str) -> bool:
        split, rest = found[name]
        return every or not rest or any(s != split and r == rest for s, r in found.values())

    splits = {name: found[name][0] for name in found if counts(name)}
    if not every and all(split == TRAIN for split in splits.values()):
        return {}
    if TRAIN in splits.values():
        return {name: splits.get(name, BESIDE) for name in names}
    return splits


def places(files: Sequence[PurePath], *, by_name: bool) -> dict[PurePath, Place]:
    """Where each file belongs.

    Arguments:
        files: relative to the data set, all of one kind.
        by_name: the names of the files count as those of folders do: for shards, not for pictures.

    Returns:
        The place by file.
    """
    levels: dict[tuple[str, ...], set[str]] = {}
    for file in files:
        for depth, part in enumerate(file.parts[:-1]):
            levels.setdefault(file.parts[:depth], set()).add(part)
        if by_name:
            levels.setdefault(file.parts[:-1], set()).add(file.stem)
    split = {level: split_siblings(names) for level, names in levels.items()}
    return {file: _place(file, split, by_name) for file in files}


def _place(file: PurePath, split: dict[tuple[str, ...], dict[str, str]], by_name: bool) -> Place:
    folders = file.parts[:-1]
    for depth in range(len(file.parts)):
        level = split.get(file.parts[:depth], {})
        leaf = depth == len(folders)
        if not leaf or by_name:
            found = level.get(file.stem if leaf else folders[depth])
        else:
            found = BESIDE if TRAIN in level.values() else None
        if found:
            return Place(found, folders[:depth] + folders[depth + 1 :])
    return Place("", folders)
