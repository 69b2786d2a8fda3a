"""Fidelity and coverage of a set of samples, on features ``(B, F)`` of any extractor."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.metrics.metric import Metric

FRECHET = Metric("frechet", "low", "", "between features of samples and of real data", "Fréchet distance")
KID = Metric("kid", "low", "", "kernel distance between features of samples and of real data", "KID")
NEIGHBOURS = (
    Metric("coverage", "high", "share", "of real data with a sample nearby"),
    Metric("recall", "high", "share", "of real data within reach of the samples"),
    Metric("precision", "high", "share", "of samples within reach of real data"),
    Metric("density", "high", "", "real neighbours of a sample, 1 for real data"),
)


def _check(samples: Tensor, real: Tensor, least: int) -> tuple[Tensor, Tensor]:
    require(
        samples.dim() == real.dim() == 2 and samples.shape[1] == real.shape[1],
        "Features must be of shape (B, F) with the same F.",
    )
    require(
        min(len(samples), len(real)) >= least, f"This metric needs at least {least} samples on each side."
    )
    return samples.detach().double(), real.detach().double()


def frechet_distance(samples: Tensor, real: Tensor) -> float:
    """``|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))`` of the two sets' means and covariances (Heusel et al.,
    2017, arXiv 1706.08500).

    With fewer samples than features the covariance is singular, and the figure biased upwards.

    Arguments:
        samples: features, (B, F), at least 2.
        real: features of real data, (B', F), at least 2.

    Returns:
        The distance, 0 for equal moments.
    """
    a, b = _check(samples, real, 2)
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    # tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), whose matrix is symmetric
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * shared)


def kernel_distance(samples: Tensor, real: Tensor) -> float:
    """KID: the squared maximum mean discrepancy, unbiased, of the kernel ``(x y / F + 1)^3`` (Bińkowski et
    al., 2018, arXiv 1801.01401, section 3).

    Unlike the Fréchet distance it is right on average for any number of samples.

    Arguments:
        samples: features, (B, F), at least 2.
        real: features of real data, (B', F), at least 2.

    Returns:
        About 0, of either sign, for equal distributions.
    """
    x, y = _check(samples, real, 2)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1).pow(3)

    def within(a: Tensor) -> Tensor:
        all_pairs = kernel(a, a)
        return (all_pairs.sum() - all_pairs.trace()) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def precision_recall(samples: Tensor, real: Tensor, k: int = 5) -> dict[str, float]:
    """``precision, recall`` (Kynkäänniemi et al., 2019, arXiv 1904.06991) and ``density, coverage`` (Naeem et
    al., 2020, arXiv 2002.09797).

    Each point's ball reaches to its ``k``-th neighbour within its own set.

    Arguments:
        samples: features, (B, F), more than ``k``.
        real: features of real data, (B', F), more than ``k``.
        k: number of the neighbour, at least 1.

    Returns:
        Precision: share of samples inside some real ball; recall: share of real points inside some sample's
        ball; density: real balls around a sample, over ``k``; coverage: share of real balls that hold a
        sample.
    """
    x, y = _check(samples, real, k + 1)
    reach_x, reach_y = (torch.cdist(v, v).kthvalue(k + 1, dim=1).values for v in (x, y))
    between = torch.cdist(x, y)
    in_real = between <= reach_y
    return {
        "precision": float(in_real.any(1).double().mean()),
        "recall": float((between <= reach_x[:, None]).any(0).double().mean()),
        "density": float(in_real.double().sum(1).mean() / k),
        "coverage": float(in_real.any(0).double().mean()),
    }
