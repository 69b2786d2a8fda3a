"""What a data set was found to hold, printed before anything is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillhouse.io.data.splits import SPLITS, TEST, TRAIN, VALIDATION

NAMED = 3  # of those left out for one reason, how many are named


@dataclass
class Part:
    """One split: how many pictures, and rows of them (a picture with three captions is three); how many rows
    with a caption or a label."""

    pictures: int = 0
    rows: int = 0
    captions: int = 0
    labels: int = 0


@dataclass
class Contents:
    """What a data set holds, what is used of it, and what is left out.

    Arguments:
        path: of the data set.
        kind: what the pictures lie in, as in "parquet files".
        formats: number of pictures or shards by ending.
        parts: by split.
        classes: names of the classes, in the order of their numbers.
        left_out: by reason, the names.
    """

    path: Path
    kind: str
    formats: Counter[str] = field(default_factory=Counter)
    parts: dict[str, Part] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def held_out(self) -> str:
        """The split that is held out: validation where there is one, else test; empty where there is none."""
        return next((split for split in (VALIDATION, TEST) if split in self.parts), "")

    @property
    def used(self) -> tuple[str, ...]:
        """The splits that are read."""
        return tuple(split for split in (TRAIN, self.held_out) if split in self.parts)

    @property
    def pictures(self) -> int:
        """In all splits."""
        return sum(part.pictures for part in self.parts.values())

    def add(self, split: str, *, captions: int = 0, label: bool = False) -> None:
        """Count a picture.

        Arguments:
            split: that it belongs to.
            captions: that it has, each of which makes a row.
            label: whether it has a class.
        """
        part, rows = self.parts.setdefault(split, Part()), max(1, captions)
        part.pictures += 1
        part.rows += rows
        part.captions += captions
        part.labels += rows * label

    def leave(self, reason: str, names: str | Iterable[str]) -> None:
        """Note what is left out.

        Arguments:
            reason: as in "files that are no pictures".
            names: one name, or several.
        """
        names = [names] if isinstance(names, str) else list(names)
        if names:
            self.left_out.setdefault(reason, []).extend(names)

    def lines(self) -> list[str]:
        """What is used, as lines for people."""
        formats = ", ".join(f"{count:,} {ending}" for ending, count in self.formats.most_common())
        lines = [f"'{self.path}': {self.pictures:,} picture(s) in {self.kind} ({formats})"]
        for split in (split for split in SPLITS if split in self.parts):
            part = self.parts[split]
            text = f"  {split}: {part.pictures:,} picture(s)"
            text += f" in {part.rows:,} rows, one a caption" if part.rows > part.pictures else ""
            text += f", {part.captions:,} caption(s)" if part.captions else ", no captions"
            text += f", {part.labels:,} label(s)" if part.labels else ""
            if split == self.held_out:
                text += "; held out"
            elif split != TRAIN:
                text += f"; not read, since {self.held_out} is held out"
            lines.append(text)
        if self.classes:
            shown = ", ".join(self.classes[:8]) + (", …" if len(self.classes) > 8 else "")
            lines.append(f"  classes: {len(self.classes)} ({shown})")
        return lines

    def remarks(self) -> list[str]:
        """What is left out, a line a reason."""
        return [
            f"left out of '{self.path}': {len(names):,} {reason} ({', '.join(sorted(names)[:NAMED])}"
            f"{', …' if len(names) > NAMED else ''})"
            for reason, names in self.left_out.items()
        ]

    def describe(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "data": str(self.path),
            "kind": self.kind,
            "formats": dict(self.formats),
            "splits": {split: vars(part).copy() for split, part in self.parts.items()},
            "used": list(self.used),
            "held_out": self.held_out,
            "classes": self.classes,
            "left_out": self.left_out,
        }
