"""Where a run's data comes from. The rows of an iteration follow from its number alone, so a resumed run sees what it would have seen."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from stillhouse.denoiser import Condition
from stillhouse.draws import Draws, seed_of
from stillhouse.errors import require


class Data(Protocol):
    """Rows for training: real samples with their conditions, or conditions alone."""

    shape: tuple[int, ...]
    classes: int

    def rows(self, start: int, draws: Draws) -> tuple[Tensor | None, Condition]:
        """``draws.rows`` rows; ``start`` counts the samples that the whole run has used before."""
        ...


class TensorData:
    """A finite set in memory, reshuffled every epoch. ``x``: (N, *shape) float32, ``labels``: (N,) or None."""

    def __init__(self, x: Tensor, labels: Tensor | None = None, classes: int = 0, seed: int = 0):
        require(len(x) > 0, "The data set is empty.")
        bad = ~torch.isfinite(x.flatten(1)).all(1)
        require(
            not bool(bad.any()),
            f"The data holds NaN or infinite values (first in sample {int(bad.nonzero()[0]) if bad.any() else 0}); clean it first.",
        )
        if labels is not None:
            require(len(labels) == len(x), f"There are {len(x)} samples but {len(labels)} labels.")
            require(
                int(labels.min()) >= 0 and int(labels.max()) < classes,
                f"Labels must lie in 0 … {classes - 1}; found {int(labels.min())} … {int(labels.max())}.",
            )
        self.x, self.labels, self.classes, self.seed, self.shape = x, labels, classes, seed, tuple(x.shape[1:])
        self._order: tuple[int, Tensor] | None = None

    def _epoch(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
            self._order = epoch, torch.randperm(len(self.x), generator=generator)
        return self._order[1]

    def rows(self, start: int, draws: Draws) -> tuple[Tensor, Condition]:
        first, n = start + draws.rank * draws.rows, len(self.x)
        where = torch.arange(first, first + draws.rows)
        index = torch.cat([self._epoch(int(e))[where[where // n == e] % n] for e in torch.unique_consecutive(where // n)])
        labels = None if self.labels is None else self.labels[index].to(draws.device)
        return self.x[index].to(draws.device), labels


class NoData:
    """A data-free run: conditions drawn uniformly among the classes, no samples."""

    def __init__(self, shape: tuple[int, ...], classes: int = 0):
        self.shape, self.classes = shape, classes

    def rows(self, start: int, draws: Draws) -> tuple[None, Condition]:
        return None, draws.integers(0, self.classes) if self.classes else None


class Endless:
    """A world that draws fresh samples: ``sample(draws) -> (x, labels)``."""

    def __init__(self, world, labelled: bool = False):
        self.world, self.shape, self.classes = world, world.shape, world.classes if labelled else 0

    def rows(self, start: int, draws: Draws) -> tuple[Tensor, Condition]:
        x, labels = self.world.sample_data(draws.rows, draws)
        return x, labels if self.classes else None
