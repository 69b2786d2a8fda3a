"""From a picture of any size and kind to numbers: upright, on white, cut to a size, in [-1, 1]. And the sizes
to choose from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.core.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]  # height, width
MOST = 64_000_000  # pixels of a picture that fits into memory as numbers, several times over


def to_tensor(image: Image, size: Size, channels: int = 3) -> Tensor:
    """An image as numbers.

    Turned upright by its EXIF note. What is transparent shows white, as on paper. Scaled (Lanczos) until it
    covers ``size``, then cut about its centre. Grey of more than 8 bits is read as :func:`light_of` has it.

    Arguments:
        image: of any size and mode.
        size: (height, width) in pixels.
        channels: 3 for colour, 1 for grey.

    Returns:
        (channels, height, width) float32 in [-1, 1].
    """
    from PIL import Image as images
    from PIL import ImageOps

    require(channels in (1, 3), f"Images have 1 or 3 channels, not {channels}.")
    image = turned(image)
    light = light_of(image)
    if light is not None:
        image = images.fromarray((light * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(
        image.convert("RGB" if channels == 3 else "L"), (size[1], size[0]), images.Resampling.LANCZOS
    )
    values = torch.from_numpy(np.array(image, dtype=np.float32)).reshape(*size, channels)
    return values.permute(2, 0, 1).contiguous() / 127.5 - 1


def buckets(size: Size, multiple: int, count: int, widest: float = 2.0) -> list[Size]:
    """Sizes of about one area, whose aspect ratios (width to height) are spread evenly in the logarithm.

    Arguments:
        size: (height, width) in pixels, itself among the sizes.
        multiple: by which all sides are divisible, those of ``size`` included.
        count: about how many sizes, at least 1; those that fall together after rounding are one.
        widest: the ratios lie between ``1 / widest`` and ``widest``; at least 1.

    Returns:
        Sizes (height, width), tallest first.
    """
    require(
        count >= 1 and multiple >= 1,
        f"There must be at least one bucket and a multiple of 1 or more, not {count} and {multiple}.",
    )
    require(widest >= 1, f"The widest aspect ratio is 1 or more, not {widest}.")
    fits = size[0] % multiple == 0 and size[1] % multiple == 0 and min(size) > 0
    require(fits, f"The size {size[0]} x {size[1]} is no multiple of {multiple}.")
    area, top = size[0] * size[1], math.log(widest)
    spread = [top * (2 * i / (count - 1) - 1) for i in range(count)] if count > 1 else []

    def rounded(side: float) -> int:
        return max(1, round(side / multiple)) * multiple

    found = {size} | {
        (rounded(math.sqrt(area / math.exp(a))), rounded(math.sqrt(area * math.exp(a)))) for a in spread
    }
    return sorted(found, key=lambda s: s[1] / s[0])


def nearest(size: Size, choices: Sequence[Size]) -> Size:
    """The choice whose aspect ratio is nearest, in the logarithm.

    Arguments:
        size: (height, width).
        choices: at least one size.

    Returns:
        One of the choices.
    """
    aspect = math.log(size[1] / size[0])
    return min(choices, key=lambda s: (abs(math.log(s[1] / s[0]) - aspect), s))


def upright(image: Image) -> Size:
    """Height and width once turned by the EXIF note."""
    lying = _orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if lying else (image.height, image.width)


def _orientation(image: Image) -> int:
    """As the EXIF note has it; 1, upright, where the note is missing or broken."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # of a broken note a decoder raises whatever its bytes lead to; the picture is whole
        return 1
    return found if isinstance(found, int) else 1


def turned(image: Image) -> Image:
    """An image upright; as it is where its EXIF note is missing or broken."""
    from PIL.Image import Transpose

    names = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90".split()
    place = _orientation(image) - 2  # the first name is that of 2
    if not 0 <= place < len(names):
        return image
    made = image.transpose(Transpose[names[place]])
    made.format = image.format
    return made


def light_of(image: Image) -> np.ndarray[Any, Any] | None:
    """Grey of more than eight bits, or of floats, from black to white.

    Whole numbers are of 16 bits; those of a mode of 32 bits are of the 8, 16, 24, 31 or 32 that the brightest
    needs. Floats are 0 … 1, 0 … 255 or 0 … 65535, whichever holds them; where none does, their own range is
    taken.

    Arguments:
        image: of any mode, as it was opened.

    Returns:
        (height, width) float64 in [0, 1], None for all other modes; raises ``ValueError`` for floats that are
        not finite.
    """
    if image.mode[:1] not in ("I", "F"):
        return None
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinite values")
        low, high = float(values.min()), float(values.max())
        whole = next((top for top in (1.0, 255.0, 65535.0) if low >= 0 and high <= top), 0.0)
        low, high = (0.0, whole) if whole else (low, high)
        return (values - low) / max(high - low, 1e-12)
    if image.mode != "I" or image.format == "PNG":  # which has no more than 16
        return values.clip(0, 65535) / 65535
    values = np.where(values < 0, values + 2.0**32, values) if values.min() < 0 else values  # without a sign
    bits = next(bits for bits in (8, 16, 24, 31, 32) if values.max() < 2.0**bits)
    return values / (2.0**bits - 1)
