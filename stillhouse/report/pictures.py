"""Samples as pictures inside a page: PNG data URIs for images, SVG point clouds for points."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.io.media import contact_sheet, gif, pictures_of

GAP = 1  # pixels between two images


def tile(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] side by side, ``columns`` a row, as bytes (H', W', C); gaps are the
    darkest value."""
    require(
        images.dim() == 4 and images.shape[1] in (1, 3),
        f"Pictures need images of shape (N, 1 or 3, H, W), not {tuple(images.shape)}.",
    )
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.full((rows, columns, c, h + GAP, w + GAP), -1.0)
    sheet.view(-1, c, h + GAP, w + GAP)[:n, :, :h, :w] = images.float().cpu()
    whole = sheet.permute(0, 3, 1, 4, 2).reshape(rows * (h + GAP), columns * (w + GAP), c)[
        : rows * (h + GAP) - GAP, : columns * (w + GAP) - GAP
    ]
    return ((whole.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def png(picture: Tensor) -> bytes:
    """Bytes (H, W, 1 or 3) as a PNG file (8 bits, no palette)."""
    h, w, c = picture.shape
    lines = torch.cat(
        [torch.zeros(h, 1, dtype=torch.uint8), picture.reshape(h, w * c)], 1
    )  # each line begins with "no filter"

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", w, h, 8, 0 if c == 1 else 2, 0, 0, 0)
    packed = zlib.compress(lines.numpy().tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def data_uri(images: Tensor, columns: int) -> str:
    """A tiled sheet as a ``data:`` address. Small images are enlarged by whole pixels, so that no browser
    blurs them."""
    times = max(1, 128 // images.shape[-1])
    sheet = tile(images, columns).repeat_interleave(times, 0).repeat_interleave(times, 1)
    return "data:image/png;base64," + base64.b64encode(png(sheet)).decode()


def moving_uri(clips: Tensor, fps: float = 8.0) -> str:
    """Clips (B, F, C, H, W) in [-1, 1] side by side as a ``data:`` address of a picture that moves."""
    return "data:image/gif;base64," + base64.b64encode(gif(pictures_of(clips), fps)).decode()


def sheet_uri(clips: Tensor) -> str:
    """The frames of clips (B, F, C, H, W), a clip a row, as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(torch.from_numpy(contact_sheet(clips)))).decode()


def bounds_of(points: Tensor, margin: float = 0.15) -> tuple[float, float, float, float]:
    """A square frame (left, right, bottom, top) around 2-D points, a little wider than they are."""
    low, high = points[:, :2].amin(0), points[:, :2].amax(0)
    centre, half = (low + high) / 2, float((high - low).max()) / 2 * (1 + margin)
    return float(centre[0]) - half, float(centre[0]) + half, float(centre[1]) - half, float(centre[1]) + half
