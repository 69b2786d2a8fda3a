"""A small digit classifier for each image world: its features serve Fréchet distances, its logits the class
accuracy."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import require_labels
from stillhouse.core.errors import StillhouseError
from stillhouse.core.spellings import current_weights
from stillhouse.io.checked import metadata_of, tensors_of


class FeatureExtractor(Protocol):
    """Anything that turns images (B, C, H, W) in [-1, 1] into features (B, F): pass your own where ours
    doesn't fit."""

    def __call__(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class Classifier(Protocol):
    """Anything that turns images (B, C, H, W) in [-1, 1] into ``logits`` (B, classes)."""

    def logits(self, images: Tensor) -> Tensor: ...


class FeatureNet(nn.Module):
    """Three convolutions down to 4x4, 64 features, one linear layer of logits. ``size``: side of the square
    images, 4 to 32."""

    def __init__(
        self,
        size: int,
        channels: int = 1,
        classes: int = 10,
        widths: tuple[int, int, int] = (16, 32, 64),
        features: int = 64,
    ):
        super().__init__()
        pools = (size // 4).bit_length() - 1
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i >= len(widths) - pools else []
            channels = width
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * 16, features), nn.BatchNorm1d(features), nn.ReLU()
        )
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 64)."""
        features: Tensor = self.body(images)
        return features

    def logits(self, images: Tensor) -> Tensor:
        """Unnormalised log p(class | image), (B, classes)."""
        logits: Tensor = self.head(self(images))
        return logits


def asset(world: str) -> Traversable:
    """Where the shipped weights of a world's classifier lie."""
    return files("stillhouse") / "assets" / f"features-{world}.safetensors"


def recipe(world: str) -> dict[str, str]:
    """Metadata of the shipped weights: size, seed, epochs, measured test accuracy."""
    return metadata_of(str(asset(world)))


@cache
def load_features(world: str) -> FeatureNet:
    """The shipped classifier of an image world, frozen, in evaluation mode."""
    if not asset(world).is_file():
        raise StillhouseError(f"No features are shipped for the world '{world}'; pass your own extractor.")
    net = FeatureNet(int(recipe(world)["size"]))
    net.load_state_dict(current_weights(tensors_of(str(asset(world)))))
    return net.eval().requires_grad_(False)


@torch.no_grad()
def features_of(extractor: FeatureExtractor, images: Tensor, chunk: int = 500) -> Tensor:
    """Features of any number of images.

    Arguments:
        extractor: of images (B, C, H, W) in [-1, 1].
        images: as the extractor takes them, (B, C, H, W).
        chunk: images at a time.

    Returns:
        Features, (B, F).
    """
    return torch.cat([extractor(part) for part in images.split(chunk)])


@torch.no_grad()
def class_accuracy(net: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier assigns to their labels.

    Arguments:
        net: the classifier.
        images: in [-1, 1], (B, C, H, W).
        labels: classes, (B,) int64, at least 0.

    Returns:
        The share, in [0, 1].
    """
    require_labels(labels)
    return float((features_of(net.logits, images).argmax(1) == labels).double().mean())
