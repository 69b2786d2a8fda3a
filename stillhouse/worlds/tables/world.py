"""``tables``: scikit-learn's bundled tables, split, standardised and, as an option, with some labels made
wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import StillhouseError, unknown
from stillhouse.core.process import Process
from stillhouse.worlds.base import World

Array = np.ndarray
LOADERS = {
    "diabetes": "load_diabetes",
    "breast_cancer": "load_breast_cancer",
    "wine": "load_wine",
    "digits": "load_digits",
}
PIXEL = 16.0  # the blackest


class Split(NamedTuple):
    """Rows to learn from, ``X`` (n, features) and targets ``y`` (n,), and others to choose on and to test
    on."""

    X: Array
    y: Array
    X_val: Array
    y_val: Array
    X_test: Array
    y_test: Array


class Tables(World):
    """A table with its targets: numbers (``diabetes``) or classes (``breast_cancer``, ``wine``, ``digits``).
    Its systems are estimators.

    There is nothing to sample here: only :meth:`split` is called.
    """

    name = "tables"
    cond_kind = "row"

    def __init__(self, table: str = "diabetes"):
        from sklearn import datasets

        if table not in LOADERS:
            raise unknown("table", table, LOADERS)
        self.table = table
        self.X, y = getattr(datasets, LOADERS[table])(return_X_y=True)
        self.numeric = table == "diabetes"
        self.y = y.astype(float) if self.numeric else y
        self.shape, self.classes = (self.X.shape[1],), 0 if self.numeric else len(np.unique(y))

    def split(self, train: int, validation: int, seed: int = 0, *, noise: float = 0.0) -> Split:
        """Rows to learn from, to choose on, and the rest to test on, standardised by the training rows
        (targets too, if they are numbers).

        Pixels of ``digits`` are left in proportion, in [0, 1]: standardised, those that are nearly always
        empty would be the loudest.

        Arguments:
            train: number of training rows, at least 2.
            validation: number of rows to choose on.
            seed: of the order of the rows, and of the noise.
            noise: share of the *training* labels that become one of the other classes; none of numbers.

        Returns:
            The three parts.

        Raises:
            StillhouseError: where no rows are left to test on.
        """
        rng = np.random.default_rng(seed_of("tables", self.table, seed))
        order = rng.permutation(len(self.X))
        if not 2 <= train or train + validation >= len(order):
            raise StillhouseError(
                f"The table '{self.table}' has {len(order)} rows; {train} and {validation} leave none to "
                "test on."
            )
        parts = np.split(order, [train, train + validation])
        X, y = [self.X[p] for p in parts], [self.y[p] for p in parts]
        mean, std = (0.0, PIXEL) if self.table == "digits" else (X[0].mean(0), X[0].std(0))
        X = [(x - mean) / np.where(std > 0, std, 1.0) for x in X]
        if self.numeric:
            centre, spread = y[0].mean(), y[0].std()
            y = [(v - centre) / spread for v in y]
        elif noise:
            wrong = rng.random(train) < noise
            y[0] = np.where(wrong, (y[0] + rng.integers(1, self.classes, train)) % self.classes, y[0])
        return Split(X[0], y[0], X[1], y[1], X[2], y[2])

    def data(self, split: str = "train") -> Any:
        raise self._nothing()

    def sample_data(self, n: int, draws: Draws, labels: Any = None) -> Any:
        raise self._nothing()

    def exact(self, process: Process) -> Any:
        raise self._nothing()

    def _nothing(self) -> StillhouseError:
        return StillhouseError(
            "The world 'tables' is for scikit-learn estimators, not for diffusion; see docs/classical.md."
        )
