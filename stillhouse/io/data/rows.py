"""Rows of images with captions, opened one by one; what is missing or broken is noted and left out."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import StillhouseError, require

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("stillhouse")

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")


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
        from PIL import Image, UnidentifiedImageError

        try:
            if row.content is None:
                raise FileNotFoundError("it has no image")
            image = Image.open(io.BytesIO(row.content) if isinstance(row.content, bytes) else row.content)
            image.load()
            return image
        except UnidentifiedImageError:
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


def label_of(value: Any) -> int | None:
    """A class as tables have it, as a number; None where there is none."""
    try:
        return None if value in (None, "") else int(value)
    except (TypeError, ValueError) as error:
        raise StillhouseError(f"A label is a whole number, not {value!r}.") from error
