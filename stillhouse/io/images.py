"""Samples as files: a PNG of tiles for images, numbers for anything else."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.io.weights import atomic_write


def is_image(x: Tensor) -> bool:
    """Whether ``x`` is a batch of grey or colour images (B, 1 or 3, H, W)."""
    return x.dim() == 4 and x.shape[1] in (1, 3)


def tile(x: Tensor, columns: int = 0) -> np.ndarray:
    """Images side by side, a pixel of grey between and around them; a single image as it is.

    Arguments:
        x: in [-1, 1], (B, C, H, W); values beyond are cut.
        columns: images a row; 0: about square.

    Returns:
        The sheet, (height, width, C) uint8.
    """
    count, channels, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 128, dtype=np.uint8)
    pixels = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    if count == 1:
        alone: np.ndarray = pixels[0]
        return alone
    for index, image in enumerate(pixels):
        top, left = (index // columns) * (height + 1) + 1, (index % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    return sheet


def png(sheet: np.ndarray) -> bytes:
    """A (H, W, 1 or 3) uint8 sheet as the bytes of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_samples(path: str | Path, x: Tensor, labels: Tensor | None = None, columns: int = 0) -> Path:
    """Write samples as the name ends.

    Arguments:
        path: ending in ``.png`` (images only), ``.npy`` or ``.safetensors``; without an ending: ``.png`` for
            images, else ``.npy``.
        x: samples, (B, *shape); images in [-1, 1].
        labels: of the samples, (B,), for ``.safetensors``; None: none.
        columns: images a row; 0: about square.

    Returns:
        Where they are; raises :class:`StillhouseError` for another ending, and for a PNG of points.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(".png" if is_image(x) else ".npy")
    require(
        path.suffix in (".png", ".npy", ".safetensors"),
        f"Samples are written as .png, .npy or .safetensors, not '{path.suffix}'.",
    )
    require(
        path.suffix != ".png" or is_image(x),
        f"Samples of shape {tuple(x.shape[1:])} are no images; write them as .npy or .safetensors.",
    )
    if path.suffix == ".png":
        atomic_write(path, png(tile(x, columns)))
    elif path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, x.detach().cpu().numpy(), allow_pickle=False)
        atomic_write(path, buffer.getvalue())
    else:
        atomic_write(
            path,
            save(
                {
                    "samples": x.detach().cpu().contiguous(),
                    **({} if labels is None else {"labels": labels.cpu()}),
                }
            ),
        )
    return path
