"""Distances between two sets of samples, and between paired samples. Any shape ``(B, …)``; everything after B
is flattened."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.draws import seed_of
from stillhouse.core.errors import require
from stillhouse.metrics.metric import Metric

SWD = Metric("swd", "low", "", "distance to real data along random directions", "Sliced Wasserstein")
MMD = Metric("mmd", "low", "", "kernel distance to real data", "MMD²")


def _flat(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = x.detach().flatten(1).double(), y.detach().flatten(1).double()
    require(
        x.shape[1] == y.shape[1],
        f"Samples with {x.shape[1]} and {y.shape[1]} numbers each can't be compared.",
    )
    require(len(x) > 0 and len(y) > 0, "An empty set of samples can't be compared.")
    return x, y


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, projections: int = 128, p: float = 2.0, generator: torch.Generator | None = None
) -> float:
    """``(mean over directions of W_p^p)^(1/p)``, the sliced Wasserstein-p distance (Bonneel et al., 2015, eq.
    10).

    Directions are uniform on the unit sphere. Each one-dimensional ``W_p`` is exact for sets of unequal
    sizes, too. A shift by ``d`` counts ``|d| / sqrt(D)`` at ``p = 2``.

    Arguments:
        x: samples, (B, …).
        y: samples to compare with, (B', …), as many numbers each.
        projections: directions.
        p: exponent of the distance along a direction.
        generator: of the directions; None: the same ones every time.

    Returns:
        The distance, in units of the samples.
    """
    x, y = _flat(x, y)
    generator = generator or torch.Generator(x.device).manual_seed(seed_of("sliced"))
    directions = torch.randn(
        x.shape[1], projections, generator=generator, device=generator.device, dtype=x.dtype
    ).to(x.device)
    directions = directions / directions.norm(dim=0)
    a, b = (x @ directions).sort(0).values, (y @ directions).sort(0).values
    if len(a) == len(b):
        return float((a - b).abs().pow(p).mean() ** (1 / p))
    # between two neighbouring levels of either empirical quantile function both are constant
    i, j = torch.arange(1, len(a) + 1, device=x.device), torch.arange(1, len(b) + 1, device=x.device)
    levels = torch.cat(
        [i * len(b), j * len(a)]
    ).unique()  # in units of 1 / (n m): integers, so that equal levels are equal
    below = torch.cat([levels.new_zeros(1), levels[:-1]])
    gap = (a[below // len(b)] - b[below // len(a)]).abs().pow(p)
    share = (levels - below).double() / (len(a) * len(b))
    return float((share @ gap).mean() ** (1 / p))


def wasserstein(x: Tensor, y: Tensor, *, p: float = 2.0) -> float:
    """The exact Wasserstein-p distance between two sets of equal size, by optimal assignment.

    Arguments:
        x: samples, (B, …), at most 4,096.
        y: samples to compare with, (B, …).
        p: exponent of the Euclidean distance.

    Returns:
        The distance, in units of the samples.
    """
    from scipy.optimize import linear_sum_assignment

    x, y = _flat(x, y)
    require(len(x) == len(y), f"An assignment needs sets of equal size, not {len(x)} and {len(y)}.")
    require(
        len(x) <= 4096,
        f"An exact assignment of {len(x)} samples would take too long; use sliced_wasserstein.",
    )
    cost = torch.cdist(x, y).pow(p)
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return float(cost[torch.as_tensor(rows), torch.as_tensor(columns)].mean() ** (1 / p))


def mmd(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy, unbiased (Gretton et al., 2012, eq. 3), of Gaussian kernels.

    Arguments:
        x: samples, (B, …), at least 2.
        y: the reference, (B', …), at least 2.
        bandwidth: ``h`` of the kernel ``exp(-|x - y|^2 / (2 h^2))``, above 0; None: the median
            distance within ``y``.

    Returns:
        About 0, of either sign, for equal distributions.
    """
    x, y = _flat(x, y)
    n, m = len(x), len(y)
    require(n >= 2 and m >= 2, "The unbiased MMD needs at least two samples on each side.")
    within = torch.pdist(y)
    h = float(within.median()) if bandwidth is None else bandwidth
    require(h > 0, f"The bandwidth of a kernel must be positive, not {h}.")

    def kernel(distance: Tensor) -> Tensor:
        return (-(distance**2) / (2 * h**2)).exp()

    return float(kernel(torch.pdist(x)).mean() + kernel(within).mean() - 2 * kernel(torch.cdist(x, y)).mean())


def paired_rmse(x: Tensor, y: Tensor) -> float:
    """``sqrt(mean_i |x_i - y_i|^2)``: the root mean square Euclidean distance of samples that start from the
    same noise.

    Arguments:
        x: samples, (B, …).
        y: their partners, (B, …), in the same order.

    Returns:
        The distance, in units of the samples.
    """
    x, y = _flat(x, y)
    require(len(x) == len(y), f"Pairs need sets of equal size, not {len(x)} and {len(y)}.")
    return float((x - y).square().sum(1).mean().sqrt())
