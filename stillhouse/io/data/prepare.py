"""From a picture of any size and kind to numbers: upright, on white, cut to a size, in [-1, 1]. And the sizes
to choose from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stillhouse.core.errors import require

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

Size = tuple[int, int]  # height, width


def to_tensor(image: Image, size: Size, channels: int = 3) -> Tensor:
    """An image as numbers.

    Turned upright by its EXIF note. What is transparent shows white, as on paper. Scaled (Lanczos) until it
    covers ``size``, then cut about its centre. 16-bit grey keeps its upper 8 bits, 32-bit grey those that its
    brightest point needs; floats are read as 0 … 1, 0 … 255 or 0 … 65535, whichever holds them, and scaled
    from their own range where none does.

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
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode[:1] in "IF":
        image = images.fromarray(_eight_bits(np.asarray(image), image.mode, sixteen=image.format == "PNG"))
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
    turned = _orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _orientation(image: Image) -> int:
    """As the EXIF note has it; 1, upright, where the note is missing or broken."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # of a broken note a decoder raises whatever its bytes lead to; the picture is whole
        return 1
    return found if isinstance(found, int) else 1


def _turn(image: Image) -> Transpose | None:
    """What makes a picture upright."""
    from PIL.Image import Transpose

    names = (
        "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"  # 2 … 8
    ).split()
    place = _orientation(image) - 2
    return Transpose[names[place]] if 0 <= place < len(names) else None


def _eight_bits(values: np.ndarray, mode: str, *, sixteen: bool) -> np.ndarray:
    """Grey of more than eight bits, or of floats, in eight."""
    if mode.startswith("F"):
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinite values")
        low, high = float(values.min()), float(values.max())
        whole = next((top for top in (1.0, 255.0, 65535.0) if low >= 0 and high <= top), None)
        low, high = (0.0, whole) if whole else (low, high)
        return ((values - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    wide = values.astype(np.int64)
    if mode == "I" and not sixteen:
        wide = wide & 0xFFFFFFFF if wide.min() < 0 else wide  # 32 bits without a sign
        shift = next(bits for bits in (0, 8, 16, 23, 24) if wide.max() < 1 << (bits + 8))
    else:
        shift = 8
    return (wide.clip(0, (1 << (shift + 8)) - 1) >> shift).astype(np.uint8)
