"""The caption reader of the world ``shapes``: ``p(c | x)``, by which prompt fidelity is measured, and which
serves as a reward."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.conditions import require_labels
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.spellings import current_weights
from stillhouse.io.checked import metadata_of, tensors_of
from stillhouse.metrics.captions import CAPTIONS, COLOURS, LAYOUTS, SHAPES, Parts, caption_of, parts
from stillhouse.metrics.metric import Metric

FIDELITY = (
    Metric(
        "fidelity",
        "high",
        "share",
        "of pictures in which the reader finds all that the caption names",
        "Prompt fidelity",
    ),
    Metric("shape_fidelity", "high", "share", "of pictures with the shapes of all objects right"),
    Metric("colour_fidelity", "high", "share", "of pictures with the colours of all objects right"),
    Metric("layout_fidelity", "high", "share", "of pictures with the objects where they should be"),
)

HEADS = {
    "layout": len(LAYOUTS),
    "shape1": len(SHAPES),
    "colour1": len(COLOURS),
    "shape2": len(SHAPES),
    "colour2": len(COLOURS),
}


class Reader(nn.Module):
    """Reads scenes: pixels folded by two, four convolutions down to 4x4, 64 features, and one head for each
    part of a caption.

    Images are (B, 3, 32, 32) in [-1, 1], captions (B,) numbers in
    :data:`stillhouse.metrics.captions.CAPTIONS`. The parts are independent given the image, and those of the
    second object count only where there is one: :meth:`log_prob` is that of a distribution over the canonical
    captions. Differentiable in the images.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64, 64), features: int = 64):
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        before = 12
        for i, width in enumerate(widths):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if i in (0, 2) else []
            before = width
        self.body = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(before * 16, features), nn.BatchNorm1d(features), nn.ReLU()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(features, size) for name, size in HEADS.items()})

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 64)."""
        features: Tensor = self.body(images)
        return features

    def log_parts(self, images: Tensor) -> dict[str, Tensor]:
        """Log-probabilities of each part: ``layout`` (B, 3), ``shape1 shape2`` (B, 4), ``colour1 colour2``
        (B, 6)."""
        seen = self(images)
        return {name: head(seen).log_softmax(1) for name, head in self.heads.items()}

    def log_prob(self, images: Tensor, captions: Tensor) -> Tensor:
        """``log p(c | x)`` of captions.

        Arguments:
            images: in [-1, 1], (B, 3, 32, 32).
            captions: their numbers, (B,) int64.

        Returns:
            Log-probabilities, (B,); captions that describe the same scene have the same.
        """
        log, asked = self.log_parts(images), parts(captions)
        total = log["layout"].new_zeros(len(captions))
        for name, table in log.items():
            part: Tensor = getattr(asked, name)
            total = total + torch.where(part >= 0, table.gather(1, part.clamp_min(0)[:, None])[:, 0], 0.0)
        return total

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The canonical caption (B,) of each image's likeliest parts."""
        return caption_of(self.read_parts(images))

    @torch.no_grad()
    def read_parts(self, images: Tensor, chunk: int = 500) -> Parts:
        """The likeliest parts; the second object's are guesses without meaning where the layout is single.

        Arguments:
            images: in [-1, 1], (B, 3, 32, 32).
            chunk: images at a time.

        Returns:
            The parts, each (B,) int64.
        """
        found = [
            {name: log.argmax(1) for name, log in self.log_parts(some).items()}
            for some in images.split(chunk)
        ]
        return Parts(**{name: torch.cat([one[name] for one in found]) for name in HEADS})


@torch.no_grad()
def prompt_fidelity(reader: Reader, images: Tensor, captions: Tensor) -> dict[str, float]:
    """How many images show what their captions name.

    Arguments:
        reader: of the images.
        images: in [-1, 1], (B, 3, 32, 32).
        captions: their numbers, (B,) int64.

    Returns:
        Shares of images: ``fidelity``, with all parts right; ``layout_fidelity``; ``shape_fidelity,
        colour_fidelity``, with those of all objects right, whatever their layout.
    """
    require(
        len(images) == len(captions) > 0,
        f"{len(images)} images and {len(captions)} captions can't be compared.",
    )
    require_labels(captions, len(CAPTIONS))
    seen, asked = reader.read_parts(images), parts(captions)
    right = {
        name: (getattr(seen, name) == getattr(asked, name)) | (getattr(asked, name) < 0) for name in HEADS
    }
    layout, shape, colour = (
        right["layout"],
        right["shape1"] & right["shape2"],
        right["colour1"] & right["colour2"],
    )
    shares = {
        "fidelity": layout & shape & colour,
        "shape_fidelity": shape,
        "colour_fidelity": colour,
        "layout_fidelity": layout,
    }
    return {name: float(share.double().mean()) for name, share in shares.items()}


def reading_loss(reader: Reader, images: Tensor, captions: Tensor, smoothing: float = 0.0) -> Tensor:
    """The sum of the cross-entropies of the parts that captions name, each a mean over the images that have
    the part.

    Arguments:
        reader: that learns, or whose images do.
        images: in [-1, 1], (B, 3, 32, 32).
        captions: their numbers, (B,) int64.
        smoothing: of the labels, in [0, 1].

    Returns:
        A scalar.
    """
    seen, asked = reader(images), parts(captions)
    return sum(
        (
            F.cross_entropy(head(seen), getattr(asked, name), ignore_index=-1, label_smoothing=smoothing)
            for name, head in reader.heads.items()
        ),
        start=seen.new_zeros(()),
    )


def reader_asset() -> Traversable:
    """Where the shipped reader's weights lie."""
    return files("stillhouse") / "assets" / "reader-shapes.safetensors"


def reader_recipe() -> dict[str, Any]:
    """Metadata of the shipped reader: seed, steps, batch, rate, measured accuracy."""
    return metadata_of(str(reader_asset()))


@cache
def load_reader() -> Reader:
    """The shipped reader, frozen, in evaluation mode; one and the same object in every call."""
    if not reader_asset().is_file():
        raise StillhouseError("The caption reader's weights are missing; run: python -m tools.reader")
    reader = Reader()
    reader.load_state_dict(
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in current_weights(tensors_of(str(reader_asset()))).items()
        }
    )
    return reader.eval().requires_grad_(False)
