"""Rows of images with captions, opened one by one; what is missing or broken is noted and left out."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.data.contents import Contents
from stillhouse.io.data.files import Digests
from stillhouse.io.data.prepare import MOST
from stillhouse.io.data.splits import SPLITS, TRAIN

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("stillhouse")

T = TypeVar("T")
ENOUGH = 2048  # pixels a side that a JPEG of more than MOST is decoded to at least

# what Pillow opens by itself; not those that it hands on to another program (.eps)
IMAGES = tuple(
    "jpg jpeg png webp bmp gif tif tiff jfif jpe avif avifs jp2 j2k jpx apng dib ppm pgm pbm pnm tga".split()
)
UNREAD = tuple("heic heif hif jxl dng cr2 cr3 nef arw raf orf rw2 exr hdr psd svg eps ico".split())


@dataclass(frozen=True)
class Row:
    """One image before it is opened: where it is (or its bytes, or None), its caption, its class and its
    split. An image of several captions is as many rows of one name."""

    name: str
    content: Path | bytes | None
    caption: str | None = None
    label: int | None = None
    split: str = TRAIN


class Source:
    """Images with captions. Iterating opens them: (name, image or None, caption or None) each.

    ``contents``: what was found, what is used of it and what is left out. ``count``: number of rows.
    ``fingerprint``: changes when the files do. ``skipped``: by name, why an image could not be used; each is
    logged once.
    """

    def __init__(self, path: Path, contents: Contents):
        self.path, self.contents, self.skipped = path, contents, dict[str, str]()
        self._announced = False

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(self.contents.parts[split].rows for split in self.contents.used)

    def rows(self) -> Iterator[Row]:
        """Every row that is used, in a fixed order, unopened: those of the split to learn from and of the one
        that is held out."""
        used = self.contents.used
        return (row for row in self.all_rows(used) if row.split in used)

    def all_rows(self, splits: Sequence[str] = SPLITS) -> Iterator[Row]:
        """The rows of at least these splits, unopened."""
        raise NotImplementedError

    def parts(self) -> list[tuple[object, Path | None]]:
        """What makes the data what it is: plain data, each with the file whose bytes count, if any."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Changes with what is in the files, and with nothing else."""
        return self.fingerprint_by(Digests(self.path))

    def fingerprint_by(self, digests: Digests) -> str:
        """The fingerprint, by digests that may be remembered."""
        parts, digest = self.parts(), hashlib.blake2b(digest_size=16)
        of = digests.of(file for _, file in parts if file is not None)
        for about, file in parts:
            digest.update(repr((about, of[file] if file is not None else "")).encode())
        return digest.hexdigest()

    def announce(self, write: Callable[[str], object] | None = None) -> None:
        """Once: what is used as lines to ``write``, what is left out as warnings."""
        if self._announced:
            return
        self._announced = True
        if write is not None:
            for line in self.contents.lines():
                write(line)
        for line in self.contents.remarks():
            log.warning("%s", line)

    def open(self, row: Row) -> Image | None:
        """The row's image, whole; None if it is missing or broken, which is noted and logged."""
        return self.read(row, lambda image: image)

    def read(self, row: Row, make: Callable[[Image], T]) -> T | None:
        """What is made of a row's image.

        Arguments:
            row: one of this source's.
            make: is given the image, loaded; what it raises counts as a fault of the image.

        Returns:
            The result; None if the image is missing, broken or larger than :data:`MOST`, which is noted and
            logged.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            if row.content is None:
                raise FileNotFoundError("it has no image")
            image = Image.open(io.BytesIO(row.content) if isinstance(row.content, bytes) else row.content)
            if image.width * image.height > MOST and image.format == "JPEG":
                image.draft(None, (ENOUGH, ENOUGH))  # decoded at a half, a quarter or an eighth
            if image.width * image.height > MOST:
                self.skip(row.name, f"it has more than {MOST // 10**6} million pixels")
                return None
            image.load()
            return make(image)
        except StillhouseError:
            raise
        except UnidentifiedImageError:
            self.skip(row.name, "it is no image")
        except FileNotFoundError as error:
            self.skip(row.name, "it is missing" if error.strerror else str(error))
        except Exception as error:  # a decoder raises whatever broken bytes lead it to
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
        self.announce()
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


def is_picture(file: Path | str) -> bool:
    """Whether a file's ending is one of :data:`IMAGES`."""
    _, dot, ending = str(file).rpartition(".")
    return bool(dot) and ending.lower() in IMAGES


def one_a_caption(row: Row, captions: Iterable[str]) -> Iterator[Row]:
    """A row for each caption, one without where there is none.

    Arguments:
        row: without a caption.
        captions: of its image.

    Returns:
        At least one row.
    """
    captions = list(captions)
    if not captions:
        yield row
    for caption in captions:
        yield Row(row.name, row.content, caption, row.label, row.split)
