"""How different samples under one condition are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stillhouse.metrics.metric import Metric

DIVERSITY = Metric(
    "diversity",
    "data",
    "",
    "mean cosine distance between features of samples of one condition; the teacher's is the aim",
    "Diversity by condition",
)


def diversity(features: Tensor, labels: Tensor) -> float | None:
    """The mean of ``1 - cos`` over all pairs of samples that share a condition.

    Each condition counts alike, however many samples it has.

    Arguments:
        features: (B, F); they are centred by their common mean first.
        labels: numbers of conditions, (B,) int64.

    Returns:
        The mean, in [0, 2]; None where no condition has two samples.
    """
    unit = F.normalize(features.double() - features.double().mean(0), dim=1)
    found = []
    for label in labels.unique():
        some = unit[labels == label]
        n = len(some)
        if n > 1:
            found.append(float(1 - (some.sum(0).square().sum() - n) / (n * (n - 1))))
    return sum(found) / len(found) if found else None
