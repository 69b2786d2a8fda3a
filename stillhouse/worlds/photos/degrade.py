"""How photographs are degraded: smaller, blurred, noisy, JPEG, or all of it twice. Patch ``n`` is degraded in
the same way every time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.draws import seed_of
from stillhouse.core.errors import unknown
from stillhouse.io.photo import SCALES


class _Dice:
    """The random numbers of one patch."""

    def __init__(self, *name: object):
        self.generator = torch.Generator().manual_seed(seed_of(*name))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def normal_like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator)

    def order(self, n: int) -> list[int]:
        return torch.randperm(n, generator=self.generator).tolist()


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) by the bicubic kernel, widened where they shrink so that nothing aliases."""
    shrinks = height < x.shape[-2] or width < x.shape[-1]
    return F.interpolate(x, (height, width), mode="bicubic", antialias=shrinks, align_corners=False)


def shrunk(x: Tensor, times: float) -> Tensor:
    """Images made smaller and brought back to their size.

    Arguments:
        x: images, (B, C, H, W).
        times: the ratio of the sides, at least 1.

    Returns:
        Images of the same shape.
    """
    height, width = x.shape[-2:]
    return _resize(_resize(x, max(1, round(height / times)), max(1, round(width / times))), height, width)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Images convolved with a Gaussian, the border repeated.

    Arguments:
        x: images, (B, C, H, W).
        sigma: of the Gaussian, in pixels.

    Returns:
        Images of the same shape.
    """
    reach = math.ceil(3 * sigma)
    line = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).to(x)
    channels, x = x.shape[1], F.pad(x, (reach,) * 4, mode="replicate")
    for kernel in (line[:, None], line[None]):
        x = F.conv2d(x, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    return x


def jpeg(x: Tensor, quality: int) -> Tensor:
    """One image through a JPEG file.

    Arguments:
        x: the image in [-1, 1], (1, 3, H, W).
        quality: 1 … 95.

    Returns:
        What the file holds, in [-1, 1], (1, 3, H, W).
    """
    import numpy as np
    from PIL import Image

    pixels = ((x[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    read = np.array(Image.open(file))
    return torch.from_numpy(read).permute(2, 0, 1)[None].float() / 127.5 - 1


def _real(x: Tensor, dice: _Dice) -> Tensor:
    """Two rounds of blur, resizing, noise and JPEG, each in random order, milder the second time; then half
    its size.

    After the second-order degradation of Real-ESRGAN (Wang et al., 2021, arXiv 2107.10833, section 3), with
    one kind of each.
    """
    for mild in (1.0, 0.6):
        steps: list[Callable[[Tensor], Tensor]] = [
            lambda x, m=mild: blurred(x, m * dice.uniform(0.4, 1.6)),  # type: ignore[misc]
            lambda x, m=mild: shrunk(x, 1 + m * dice.uniform(0, 1)),  # type: ignore[misc]
            lambda x, m=mild: x + m * dice.uniform(0.01, 0.12) * dice.normal_like(x),  # type: ignore[misc]
            lambda x, m=mild: jpeg(x, round(95 - m * dice.uniform(5, 60))),  # type: ignore[misc]
        ]
        for i in dice.order(len(steps)):
            x = steps[i](x)
    return shrunk(x, 2)


ONE_BY_ONE: dict[str, Callable[[Tensor, _Dice], Tensor]] = {
    "blur": lambda x, dice: blurred(x, dice.uniform(0.8, 2.0)),
    "noise": lambda x, dice: x + dice.uniform(0.1, 0.4) * dice.normal_like(x),
    "jpeg": lambda x, dice: jpeg(x, round(dice.uniform(5, 40))),
    "real": _real,
}


def degrade(images: Tensor, numbers: Tensor, task: str) -> Tensor:
    """Degraded images, of their old size.

    Arguments:
        images: in [-1, 1], (B, 3, H, W).
        numbers: seeds of the random part, one an image, (B,) int64.
        task: ``x4`` or ``x2``, antialiased bicubic there and bicubic back; ``blur``, Gaussian, of 0.8 to 2
            pixels; ``noise``, Gaussian, of deviation 0.1 to 0.4; ``jpeg``, quality 5 to 40; ``real``, all of
            these twice in random order, at half the size.

    Returns:
        Images in [-1, 1], (B, 3, H, W).

    Raises:
        StillhouseError: for an unknown task.
    """
    if task not in SCALES:
        raise unknown("task of the world 'photos' named", task, SCALES)
    if task not in ONE_BY_ONE:
        degraded = shrunk(images, SCALES[task])
    else:
        rows = [
            ONE_BY_ONE[task](x[None], _Dice("photos", task, n))
            for x, n in zip(images, numbers.tolist(), strict=True)
        ]
        degraded = torch.cat(rows)
    return degraded.clamp(-1, 1)
