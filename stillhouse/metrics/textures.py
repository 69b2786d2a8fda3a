"""Features of photographs without a network: how much there is of which size, direction and colour. For
Fréchet distances on patches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.errors import require

LEVELS = 3  # octaves
TINY = 0.01  # of the range of a pixel: what is weaker than this counts as nothing


class Textures:
    """Images (B, 3, H, W) in [-1, 1] -> features (B, 41), H and W 16 or more; a
    :class:`stillhouse.metrics.features.FeatureExtractor`.

    Of lightness: mean, spread, skewness; on each of three octaves the mean size and the root mean square of
    the derivative in four directions, as logarithms (fine texture and coarse differ by orders of magnitude),
    and of the Laplacian's likewise; the correlation of the sizes of neighbouring octaves, which edges have
    and noise has not. Of each colour difference: mean, spread, fine energy. The statistics of texture models
    (Portilla & Simoncelli, 2000), few enough for a covariance of some hundred patches.
    """

    def __call__(self, images: Tensor) -> Tensor:
        require(
            min(images.shape[-2:]) >= 16,
            f"Textures need images of 16 pixels or more, not {tuple(images.shape[-2:])}.",
        )
        red, green, blue = images.double().unbind(1)
        light = (red + 2 * green + blue) / 4
        found = [*_moments(light)]
        sizes: list[Tensor] = []
        for level in range(LEVELS):
            strength = _directions(light)
            for response in (*strength, _laplacian(light)):
                found += [
                    _log(response.abs().flatten(1).mean(1)),
                    _log(response.square().flatten(1).mean(1).sqrt()),
                ]
            sizes.append(torch.stack(strength).square().sum(0).sqrt())
            light = F.avg_pool2d(light, 2) if level + 1 < LEVELS else light
        for fine, coarse in zip(sizes, sizes[1:], strict=False):
            found.append(
                _correlation(F.adaptive_avg_pool2d(fine, (coarse.shape[-2], coarse.shape[-1])), coarse)
            )
        for difference in (red - green, blue - green):
            fine = _log(_laplacian(difference).square().flatten(1).mean(1).sqrt())
            found += [difference.flatten(1).mean(1), _log(difference.flatten(1).std(1)), fine]
        return torch.stack(found, 1).float()


def _log(x: Tensor) -> Tensor:
    return torch.log(x + TINY)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, logarithm of the spread, skewness."""
    rows = x.flatten(1)
    mean, spread = rows.mean(1), rows.std(1)
    skew = ((rows - mean[:, None]) ** 3).mean(1) / (spread + TINY) ** 3
    return mean, _log(spread), skew


def _directions(x: Tensor) -> tuple[Tensor, ...]:
    """Central differences across, down, and along both diagonals, all on the same inner pixels."""
    across, down = x[:, 1:-1, 2:] - x[:, 1:-1, :-2], x[:, 2:, 1:-1] - x[:, :-2, 1:-1]
    falling, rising = x[:, 2:, 2:] - x[:, :-2, :-2], x[:, :-2, 2:] - x[:, 2:, :-2]
    return across / 2, down / 2, falling / 8**0.5, rising / 8**0.5


def _laplacian(x: Tensor) -> Tensor:
    return x[:, 1:-1, 2:] + x[:, 1:-1, :-2] + x[:, 2:, 1:-1] + x[:, :-2, 1:-1] - 4 * x[:, 1:-1, 1:-1]


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (x, y))
    return (x * y).mean(1) / ((x.square().mean(1) * y.square().mean(1)).sqrt() + TINY**2)
