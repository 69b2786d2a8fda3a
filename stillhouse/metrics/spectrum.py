"""How much fine detail images have: blur shows as missing energy in the high band."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.metrics.metric import Metric

HIGH_BAND = Metric(
    "high_band_ratio", "one", "", "energy of fine detail over that of real data", "High-band energy"
)


def band_energy(images: Tensor, cut: float = 0.25) -> Tensor:
    """Energy of fine detail in each image.

    Arguments:
        images: (B, C, H, W).
        cut: cycles per pixel above which detail is fine; 0.5 is Nyquist.

    Returns:
        Energy per pixel and channel, (B,) float64.
    """
    require(images.dim() == 4, f"A spectrum needs images (B, C, H, W), not {tuple(images.shape)}.")
    spectrum = torch.fft.fft2(images.double(), norm="ortho").abs().square()
    rows, columns = (torch.fft.fftfreq(size, device=images.device) for size in images.shape[-2:])
    high = (rows[:, None].square() + columns.square()).sqrt() > cut
    share: Tensor = (spectrum * high).mean((1, 2, 3))
    return share


def high_band_ratio(samples: Tensor, real: Tensor, cut: float = 0.25) -> float:
    """Mean energy of fine detail over that of real images: below 1 is blur, above 1 is noise.

    Arguments:
        samples: (B, C, H, W).
        real: (B', C, H', W').
        cut: cycles per pixel above which detail is fine; 0.5 is Nyquist.

    Returns:
        The ratio.
    """
    return float(band_energy(samples, cut).mean() / band_energy(real, cut).mean())
