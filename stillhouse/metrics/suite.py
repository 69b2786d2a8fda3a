"""The standard figures of an image world, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.metrics.distances import SWD, sliced_wasserstein
from stillhouse.metrics.features import FeatureExtractor, class_accuracy, features_of, load_features
from stillhouse.metrics.fidelity import FRECHET, NEIGHBOURS, frechet_distance, precision_recall
from stillhouse.metrics.metric import ACCURACY
from stillhouse.metrics.spectrum import HIGH_BAND, high_band_ratio

IMAGES = (FRECHET, SWD, ACCURACY, *NEIGHBOURS, HIGH_BAND)


def measure_images(
    world: str,
    samples: Tensor,
    real: Tensor,
    labels: Tensor | None = None,
    *,
    features: FeatureExtractor | None = None,
    real_features: Tensor | None = None,
    generator: torch.Generator,
) -> dict[str, float]:
    """``frechet precision recall density coverage swd high_band_ratio``, and ``accuracy`` where ``labels``
    (B,) are given.

    ``samples`` (B, C, H, W) against ``real`` (B', C, H, W), both in [-1, 1]. The neighbour metrics depend on
    how many points there are: they see equally many of each, at most 2,000. ``features``: an extractor in the
    place of the world's own. ``real_features``: what it says of ``real``, if that is known already.
    """
    samples = samples.detach().float().cpu()
    extractor = features or load_features(world)
    made = features_of(extractor, samples)
    true = features_of(extractor, real) if real_features is None else real_features
    n = min(len(samples), len(real), 2000)
    some, others = (torch.randperm(len(v), generator=generator)[:n] for v in (samples, real))
    result = {"frechet": frechet_distance(made, true), **precision_recall(made[some], true[others])}
    result["swd"] = sliced_wasserstein(samples, real, generator=generator)
    result["high_band_ratio"] = high_band_ratio(samples, real)
    if labels is not None:
        result["accuracy"] = class_accuracy(load_features(world), samples, labels.cpu())
    return result
