"""The standard figures of an image world, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.metrics.distances import SWD, sliced_wasserstein
from stillhouse.metrics.features import (
    Classifier,
    FeatureExtractor,
    asset,
    class_accuracy,
    features_of,
    load_features,
)
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
    """The standard figures of an image world.

    The neighbour metrics depend on how many points there are: they compare equally many of each, at most
    2,000.

    Arguments:
        world: whose shipped classifier gives features and accuracy, where there is one.
        samples: in [-1, 1], (B, C, H, W).
        real: in [-1, 1], (B', C, H, W).
        labels: the classes of the samples, (B,); None: no accuracy.
        features: an extractor in the place of the world's own, which gives the accuracy of a world without a
            classifier if it has ``logits``; None: the world's.
        real_features: those of ``real`` by the same extractor, (B', F); None: they are computed.
        generator: of random directions and subsets.

    Returns:
        ``frechet precision recall density coverage swd high_band_ratio``, and ``accuracy`` where there are
        labels and a classifier.
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
        # features of one's own don't replace the world's classifier, but stand in where there is none
        net = load_features(world) if asset(world).is_file() else extractor
        if isinstance(net, Classifier):
            result["accuracy"] = class_accuracy(net, samples, labels.cpu())
    return result
