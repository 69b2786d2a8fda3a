"""Photographs as people have them: any size and mode, with EXIF orientation and perhaps alpha; read and
written."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.data.prepare import MOST, light_of, turned
from stillhouse.io.weights import atomic_write

LEAST = 8  # pixels on a side
# by task, how many times smaller than its restored copy a picture is
SCALES = {"x4": 4, "x2": 2, "blur": 1, "noise": 1, "jpeg": 1, "real": 2}
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass
class Photo:
    """``colour`` (3, H, W) in [-1, 1], three equal channels where it is ``grey``; ``alpha`` (1, H, W) in [-1,
    1] or None."""

    colour: Tensor
    alpha: Tensor | None = None
    grey: bool = False

    def enlarged(self, scale: int) -> Photo:
        """``scale`` times as large by the bicubic kernel, within [-1, 1]: the input of a restoring
        network."""

        def plane(x: Tensor) -> Tensor:
            return F.interpolate(x[None], scale_factor=scale, mode="bicubic", align_corners=False)[0].clamp(
                -1, 1
            )

        return (
            self
            if scale == 1
            else Photo(plane(self.colour), None if self.alpha is None else plane(self.alpha), self.grey)
        )


def read_photo(path: str | Path, scale: int = 1) -> Photo:
    """A photograph, upright by its EXIF note; of a moving picture its first frame. Deeper files become
    floats, not bytes.

    Arguments:
        path: of any format that Pillow reads.
        scale: how many times larger it will be made.

    Returns:
        The photograph; raises :class:`StillhouseError` for a file that is missing, torn, no picture, smaller
        than 8 pixels on a side, or would have more than 64 million pixels after that.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    require(path.is_file(), f"There is no picture '{path}'.")
    try:
        with Image.open(path) as file:
            width, height = file.size
            require(
                min(width, height) >= LEAST,
                f"'{path}' is {width} x {height} pixels; a picture to restore has {LEAST} a side or more.",
            )
            large = (
                f"'{path}' is {width} x {height} pixels; {scale} times as large it would have more "
                f"than {MOST // 10**6} million: cut it."
            )
            require(width * height * scale**2 <= MOST, large)
            return _numbers(turned(file))
    except Image.DecompressionBombError as error:
        raise StillhouseError(f"'{path}' is too large a picture: {error}.") from error
    except UnidentifiedImageError as error:
        raise StillhouseError(f"'{path}' is no picture that can be read.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise StillhouseError(f"The picture '{path}' is damaged: {str(error).rstrip('.')}.") from error


def _numbers(image: Any) -> Photo:
    """A Pillow image as tensors."""
    light = light_of(image)
    if light is not None:  # 16 bits or more a pixel
        x = torch.from_numpy(light).float()[None]
        return Photo((2 * x - 1).expand(3, -1, -1).clone(), grey=True)
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA")
    pixels = (
        torch.from_numpy(np.array(image.convert("RGBA" if has_alpha else "RGB"))).permute(2, 0, 1).float()
        / 127.5
        - 1
    )
    return Photo(pixels[:3], pixels[3:] if has_alpha else None, grey)


def write_photo(path: str | Path, photo: Photo) -> Path:
    """Write a photograph, whole or not at all.

    Arguments:
        path: ending in ``.png``, ``.jpg`` or ``.webp``; without an ending it becomes a PNG.
        photo: with alpha for PNG and WebP only.

    Returns:
        Where it is; raises :class:`StillhouseError` for another ending, and for a JPEG of a picture with
        alpha.
    """
    from PIL import Image

    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    ending = path.suffix.lower()
    require(ending in FORMATS, f"A picture is written as {', '.join(FORMATS)}, not '{path.suffix}'.")
    require(
        photo.alpha is None or FORMATS[ending] != "JPEG",
        "The picture has transparent parts, which a JPEG can't hold; write a .png.",
    )
    colour = photo.colour.mean(0, keepdim=True) if photo.grey else photo.colour
    planes = colour if photo.alpha is None else torch.cat([colour, photo.alpha])
    pixels = ((planes.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    more = {"quality": 95} if FORMATS[ending] != "PNG" else {}
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, FORMATS[ending], **more)
    atomic_write(path, buffer.getvalue())
    return path
