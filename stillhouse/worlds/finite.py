"""Worlds with finitely many samples: their data, draws with replacement, and the exact denoiser."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.finite import FiniteDenoiser
from stillhouse.core.process import Process
from stillhouse.metrics.suite import IMAGES
from stillhouse.worlds.base import World, require_samples

if TYPE_CHECKING:
    from stillhouse.metrics.features import FeatureExtractor


class FiniteWorld(World):
    """A world of labelled images held in memory. Subclasses give ``name, shape`` and ``load() -> (images in
    [-1, 1], labels)``."""

    metrics = IMAGES
    test_share = 0.2
    classes = 10
    class_names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def __init__(self) -> None:
        self._splits = _split(type(self))  # type: ignore[arg-type]
        labels = self._splits["train"][1]
        order = labels.argsort(stable=True)
        counts = torch.bincount(labels, minlength=self.classes)
        # rows sorted by label, and where each label's rows begin; label -1 finds the last entry, all rows
        self._order = order
        self._first = torch.cat([counts.cumsum(0) - counts, torch.zeros(1, dtype=torch.long)])
        self._count = torch.cat([counts, torch.tensor([len(labels)])])

    @staticmethod
    def load() -> tuple[Tensor, Tensor]:
        """All images (N, *shape) float32 in [-1, 1], and their labels (N,)."""
        raise NotImplementedError

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        require(split in self._splits, f"A world has the splits 'train' and 'test', not '{split}'.")
        return self._splits[split]

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        asked = torch.full((n,), -1) if labels is None else labels
        place = (draws.uniform(dtype=torch.float64) * self._count[asked]).long()
        row = self._order[self._first[asked] + place]
        x, y = self._splits["train"]
        return x[row], y[row]

    def exact(self, process: Process) -> FiniteDenoiser:
        """The denoiser of the training split; it returns training images, and generalises to nothing."""
        return FiniteDenoiser(process, *self._splits["train"])

    def measure(
        self,
        samples: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        features: FeatureExtractor | None = None,
    ) -> dict[str, float]:
        """Fréchet distance, precision, recall, density and coverage, accuracy of given labels, pixel SWD,
        high-band ratio.

        Arguments:
            samples: images in [-1, 1], at least 4, (B, *shape).
            labels: what the samples were made for, (B,); None leaves out the accuracy.
            generator: for the random part of metrics; None for one that is the same every time.
            features: your own extractor; None for our classifier's features.

        Returns:
            Values by name, against the training images.
        """
        from stillhouse.metrics.suite import measure_images

        require_samples(self, samples, labels)
        generator = generator or torch.Generator().manual_seed(seed_of("measure", self.name))
        real, known = self._splits["train"][0], None if features else self._features
        return measure_images(
            self.name, samples, real, labels, features=features, real_features=known, generator=generator
        )

    @cached_property
    def _features(self) -> Tensor:
        """Our classifier's features of the training images."""
        from stillhouse.metrics.features import features_of, load_features

        return features_of(load_features(self.name), self._splits["train"][0])

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of held-out images: what new and perfect samples would get.

        Samples that repeat training images can fall below it: the classifier was trained on those, and its
        features drift a little on new ones.

        Arguments:
            n: images, or all held-out ones if there are fewer.
            seed: of the choice.

        Returns:
            What :meth:`measure` returns for them.
        """
        x, y = self._splits["test"]
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_of("floor", seed)))[:n]
        return self.measure(x[rows], y[rows])


@cache
def _split(world: type[FiniteWorld]) -> dict[str, tuple[Tensor, Tensor]]:
    """The images in a fixed shuffled order, the last fifth of it kept for tests."""
    images, labels = world.load()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed_of("split", world.name)))
    cut = len(images) - round(world.test_share * len(images))
    return {
        name: (images[rows], labels[rows]) for name, rows in (("train", order[:cut]), ("test", order[cut:]))
    }


def bundled_table(package: str, file: str, advice: str) -> np.ndarray:
    """A gzipped table of small whole numbers that a package ships, read without importing the package.

    Arguments:
        package: its import name.
        file: the path within the package.
        advice: the end of the error's sentence, how to install the package.

    Returns:
        The table, (rows, columns) uint8.

    Raises:
        StillhouseError: if the package isn't there.
    """
    found = importlib.util.find_spec(package)
    path = Path(next(iter(found.submodule_search_locations or [""])), file) if found else None
    if path is None or not path.is_file():
        raise StillhouseError(
            f"The images come with the package '{package}', which is not installed; {advice}"
        )
    text = gzip.decompress(path.read_bytes()).decode()
    columns = len(next(csv.reader([text[: text.index("\n")]])))
    return (
        np.fromstring(text.replace("\n", ","), sep=",", dtype=np.float32)
        .astype(np.uint8)
        .reshape(-1, columns)
    )
