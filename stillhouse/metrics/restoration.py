"""How near a restored image is to the true one (distortion), for images (B, C, H, W) in [-1, 1]; and LPIPS
with weights of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.io.checked import tensors_of
from stillhouse.metrics.metric import Metric

RESTORATION = (
    Metric("psnr", "high", "dB", "to the true photograph", "PSNR"),
    Metric("ssim", "high", "", "structural similarity to the true photograph", "SSIM"),
    Metric("lpips", "low", "", "perceptual distance to the true photograph", "LPIPS"),
)

RANGE = 2.0  # of a pixel, from -1 to 1


def _pair(restored: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    require(
        restored.shape == true.shape and true.dim() == 4,
        f"Images {tuple(restored.shape)} can't be compared with {tuple(true.shape)}.",
    )
    return restored.detach().double(), true.detach().double()


def psnr(restored: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image: ``10 log10(4 / mean squared error)``.

    Arguments:
        restored: in [-1, 1], (B, C, H, W).
        true: of the same shape.

    Returns:
        The ratios in dB, (B,); inf for equal images.
    """
    a, b = _pair(restored, true)
    return 10 * torch.log10(RANGE**2 / (a - b).square().mean((1, 2, 3)))


def ssim(restored: Tensor, true: Tensor) -> Tensor:
    """Structural similarity of each image: mean over pixels and channels (Wang et al., 2004, eq. 13).

    Gaussian window of 1.5 pixels cut at 11, only where it lies wholly inside.

    Arguments:
        restored: in [-1, 1], (B, C, H, W), H and W 11 or more.
        true: of the same shape.

    Returns:
        The similarities, (B,); 1 for equal images.
    """
    a, b = _pair(restored, true)
    require(
        min(a.shape[-2:]) >= 11,
        f"Structural similarity needs images of 11 pixels or more, not {tuple(a.shape[-2:])}.",
    )
    line = torch.exp(-(torch.arange(-5, 6, dtype=a.dtype) ** 2) / (2 * 1.5**2)).to(a.device)
    line = line / line.sum()

    def local(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(flat, line[None, None, :, None]), line[None, None, None, :])

    mean_a, mean_b = local(a), local(b)
    var_a, var_b, both = local(a * a) - mean_a**2, local(b * b) - mean_b**2, local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    map_ = (
        (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    )
    return map_.reshape(len(a), -1).mean(1)


class Lpips:
    """Learned perceptual distance (Zhang et al., 2018, arXiv 1801.03924, eq. 1) with the VGG weights in a
    safetensors file.

    The file holds torchvision's convolutions (``features.0.weight``, ``features.0.bias`` …) and LPIPS's five
    weightings (``lin0.weight`` … ``lin4.weight``, (1, C, 1, 1)); nothing is ever downloaded. Each of the five
    groups of convolutions ends where its channels are weighted; max-pooling lies between the groups. Raises
    :class:`StillhouseError` for a file without them.
    """

    MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
    GROUPS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # numbers of VGG-16's convolutions

    def __init__(self, file: str | Path):
        require(Path(file).is_file(), f"There are no LPIPS weights at '{file}'.")
        self.weights = tensors_of(file)
        parts = ("weight", "bias")
        needed = [f"features.{i}.{part}" for group in self.GROUPS for i in group for part in parts] + [
            f"lin{i}.weight" for i in range(5)
        ]
        missing = [name for name in needed if name not in self.weights]
        require(not missing, f"'{file}' lacks {', '.join(missing[:3])}: no LPIPS weights on VGG-16.")

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Features of each group, of unit length at every pixel."""
        h = (images.float() - images.new_tensor(self.MEAN)[:, None, None]) / images.new_tensor(self.STD)[
            :, None, None
        ]
        found: list[Tensor] = []
        for group in self.GROUPS:
            h = F.max_pool2d(h, 2) if found else h
            for i in group:
                h = F.relu(
                    F.conv2d(
                        h, self.weights[f"features.{i}.weight"], self.weights[f"features.{i}.bias"], padding=1
                    )
                )
            found.append(h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def __call__(self, restored: Tensor, true: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W)."""
        pairs = zip(self.features(restored), self.features(true), strict=True)
        maps = [F.conv2d((a - b).square(), self.weights[f"lin{i}.weight"]) for i, (a, b) in enumerate(pairs)]
        return torch.stack([m.mean((1, 2, 3)) for m in maps]).sum(0)


@dataclass
class Point:
    """A way of restoring on the plane of distortion (PSNR, dB, more is nearer) and perception (Fréchet
    distance, less is more natural)."""

    who: str
    steps: int
    psnr: float
    frechet: float

    @property
    def name(self) -> str:
        """As in "teacher, 15 steps"."""
        return self.who + (f", {self.steps} step{'s' * (self.steps != 1)}" if self.steps else "")


def perception_points(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The points of those rows of an evaluation (``who, steps, metrics``) that measured both ``psnr`` and
    ``frechet``.

    Beyond a bound that the data sets, no way of restoring can better one of the two without losing of the
    other (Blau & Michaeli, 2018, arXiv 1711.06077).
    """
    found = []
    for row in rows:
        distortion, perception = (row["metrics"].get(name) for name in ("psnr", "frechet"))
        if distortion is not None and perception is not None and math.isfinite(distortion + perception):
            found.append(Point(row["who"], row.get("steps") or 0, distortion, perception))
    return found
