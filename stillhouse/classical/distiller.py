"""What the self-distilled regressors share: a table checked, a fit in its spectrum, a hold-out, and rounds
with any other regressor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin, clone
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from stillhouse.classical.mixing import best_mixing, check, mix
from stillhouse.classical.spectrum import Spectrum

Array = np.ndarray
Validation = tuple[Any, Any]


@dataclass
class Fold:
    """One part of the data held out: the spectrum and coordinates of the rest, and the held-out rows and
    targets."""

    spectrum: Spectrum
    c: Array
    X: Array
    y: Array

    def predict(self, ridge: float, gain: Array | float = 1.0) -> Array:
        """Predictions of the held-out rows.

        Arguments:
            ridge: penalty of the fit, 0 or more.
            gain: of each coordinate, (r,), or one for all; 1 for the first fit.

        Returns:
            Predictions, (rows, outputs), less the means that were taken off.
        """
        return self.spectrum.predict(self.X, self.spectrum.weights(self.c, ridge, gain))


@dataclass
class Choice:
    """What is best at one ridge: the gains (r,), their estimated risk (a function, called where several
    ridges are compared), and what was found, by the name of the attribute that keeps it."""

    ridge: float
    risk: Callable[[], float]
    gain: Array
    found: dict[str, Any]


class Distiller(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """A regressor that learns again from a mix of its own predictions and the labels. Subclasses choose the
    mix.

    ``estimator``: any scikit-learn regressor to repeat; None: (kernel) ridge in closed form. ``ridge``:
    penalty on the squared weights, or several to choose from. ``kernel``: ``linear`` or one of
    :func:`sklearn.metrics.pairwise.pairwise_kernels`, ``gamma`` its width. ``fit_intercept``: the mean is
    taken off first and not penalised. ``folds``: parts of the data that take turns as validation data, where
    none is given to :meth:`fit`. ``random_state``: of the folds.

    Inputs are used as they are: standardise columns that differ in scale. Raises ``ValueError`` (a
    :class:`StillhouseError`) for a setting or a table that can't be learned from.
    """

    estimator: Any
    ridge: Any
    kernel: str
    gamma: float | None
    fit_intercept: bool
    folds: int
    random_state: Any

    def fit(self, X: Any, y: Any, *, validation: Validation | None = None) -> Distiller:
        """Learn from a table.

        Arguments:
            X: inputs, (n, features), of 2 rows or more.
            y: targets, (n,) or (n, outputs).
            validation: such a pair ``(X, y)`` to choose mixing numbers on; None: folds of the data take
                turns.

        Returns:
            The estimator itself.
        """
        X, y = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=2
        )
        y = np.asarray(y, dtype=np.float64)
        self._flat_ = y.ndim == 1
        y = y.reshape(len(y), -1)
        held = None if validation is None else self._held(*validation, y.shape[1])
        if self.estimator is not None:
            self._repeat(X, y, held)
            return self
        grid = np.atleast_1d(np.asarray(self.ridge, dtype=float))
        sound = grid.size > 0 and bool(np.all(np.isfinite(grid) & (grid >= 0)))
        check(sound, f"The ridge is a finite number of 0 or more, not {self.ridge}.")
        self.X_mean_, self.y_mean_ = self._means(X, y)
        self.spectrum_ = self._spectrum(X - self.X_mean_)
        whole = Fold(
            self.spectrum_, self.spectrum_.coordinates(y - self.y_mean_), X - self.X_mean_, y - self.y_mean_
        )
        parts = cache(lambda: self._parts(X, y, held))
        choices = [self._choose(float(ridge), whole, parts) for ridge in grid]
        best = choices[0] if len(choices) == 1 else min(choices, key=lambda choice: choice.risk())
        self.ridge_ = best.ridge
        for name, value in best.found.items():
            setattr(self, name, value)
        self.weights_ = self.spectrum_.weights(whole.c, best.ridge, best.gain)
        if self.spectrum_.directions is not None:
            self.coef_ = (self.spectrum_.directions @ self.weights_).T
        return self

    def predict(self, X: Any) -> Array:
        """Predictions (m,) or (m, outputs) at ``X`` (m, features)."""
        check_is_fitted(self, ["n_features_in_"])
        X = validate_data(self, X, reset=False, dtype=np.float64)
        pred = self._predict(self.student_, X) if self.estimator is not None else self._at(X)
        return pred[:, 0] if self._flat_ else pred

    def _at(self, X: Array) -> Array:
        pred: Array = self.spectrum_.predict(X - self.X_mean_, self.weights_) + self.y_mean_
        return pred

    # -- closed form -------------------------------------------------------------------------------
    def _choose(self, ridge: float, whole: Fold, parts: Callable[[], list[Fold]]) -> Choice:
        """The best that can be done at this ridge. ``whole``: the fit to all rows; ``parts()``: those with
        rows held out."""
        raise NotImplementedError

    def _means(self, X: Array, y: Array) -> tuple[Array, Array]:
        """What is taken off inputs and targets before a fit."""
        X_mean, y_mean = X.mean(0), y.mean(0)
        return X_mean * (self.fit_intercept and self.kernel == "linear"), y_mean * bool(self.fit_intercept)

    def _spectrum(self, X: Array) -> Spectrum:
        known = self.kernel == "linear" or self.gamma is None or self.gamma > 0
        check(known, f"The width gamma of a kernel is positive, not {self.gamma}.")
        try:
            return Spectrum.of(X, self.kernel, self.gamma)
        except ValueError as error:
            check(False, f"The kernel '{self.kernel}' can't be used: {' '.join(str(error).split())}.")
            raise

    def _held(self, X: Any, y: Any, outputs: int) -> tuple[Array, Array]:
        X = validate_data(self, X, reset=False, dtype=np.float64)
        y = np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        check(
            y.shape[1] == outputs,
            f"The validation data has {y.shape[1]} outputs, the training data {outputs}.",
        )
        return X, y

    def _parts(self, X: Array, y: Array, held: tuple[Array, Array] | None) -> list[Fold]:
        """The validation data with a fit to all rows, or each fold with a fit to the others."""
        if held is not None:
            return [self._fold(X, y, *held)]
        return [self._fold(X[rest], y[rest], X[out], y[out]) for rest, out in self._splits(len(X))]

    def _fold(self, X: Array, y: Array, X_v: Array, y_v: Array) -> Fold:
        X_mean, y_mean = self._means(X, y)
        spectrum = self._spectrum(X - X_mean)
        return Fold(spectrum, spectrum.coordinates(y - y_mean), X_v - X_mean, y_v - y_mean)

    def _splits(self, n: int) -> Iterator[tuple[Array, Array]]:
        check(self.folds >= 2, f"Validation takes 2 folds or more, not {self.folds}.")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        folds = KFold(min(self.folds, n), shuffle=True, random_state=seed)
        splits: Iterator[tuple[Array, Array]] = folds.split(np.empty(n))
        return splits

    # -- any other regressor -----------------------------------------------------------------------
    def _rounds(self) -> int:
        """How many students follow the first fit."""
        raise NotImplementedError

    def _given(self) -> list[float] | None:
        """The factor ``xi`` of each round; None: to be found on validation data."""
        raise NotImplementedError

    def _repeat(self, X: Array, y: Array, held: tuple[Array, Array] | None) -> None:
        """Rounds with ``estimator``: the factor of each is given, or the affine estimate on held-out rows
        (exact for linear smoothers)."""
        given, found = self._given(), []
        if given is None and held is None:
            rest, out = next(iter(self._splits(len(X))))
            found = self._search(X[rest], y[rest], X[out], y[out])
        elif given is None and held is not None:
            found = self._search(X, y, *held)
        self.factors_ = np.array(given if given is not None else found)
        self.student_ = self._fresh(X, y)
        for xi in self.factors_:
            self.student_ = self._fresh(X, mix(y, self._predict(self.student_, X), xi))

    def _search(self, X: Array, y: Array, X_v: Array, y_v: Array) -> list[float]:
        """Factors by the closed form of each round, from the student of labels alone and that of the teacher
        alone."""
        first = student = self._fresh(X, y)
        found = []
        for _ in range(self._rounds()):
            pred = self._predict(student, X)
            found.append(
                best_mixing(y_v, self._predict(first, X_v), self._predict(self._fresh(X, pred), X_v))
            )
            student = self._fresh(X, mix(y, pred, found[-1]))
        return found

    def _fresh(self, X: Array, y: Array) -> Any:
        """A new student, fitted."""
        return clone(self.estimator).fit(X, y[:, 0] if self._flat_ else y)

    @staticmethod
    def _predict(student: Any, X: Array) -> Array:
        return np.asarray(student.predict(X), dtype=float).reshape(len(X), -1)


def numbers(what: str, value: Any, count: int) -> list[float]:
    """``count`` finite numbers from one or from as many; raises :class:`TableError` for anything else.

    Arguments:
        what: what they are, with which the error's sentence begins.
        value: a number, which counts for all, or ``count`` of them.
        count: how many, 0 or more.

    Returns:
        The numbers.
    """
    given: Sequence[Any] = [value] * count if np.isscalar(value) else list(value)
    try:
        found = [float(v) for v in given]
    except (TypeError, ValueError):
        found = []
    check(
        len(found) == count and bool(np.all(np.isfinite(found))),
        f"{what} takes one finite number or {count}, not {value!r}.",
    )
    return found
