"""gt_sd: steps of self-distillation with a share of the true labels: closed from the first fit, with a limit,
and a best share a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stillhouse.classical.distiller import Choice, Distiller, Fold, numbers
from stillhouse.classical.mixing import best_mixing, check
from stillhouse.classical.soft import SoftDistiller
from stillhouse.classical.spectrum import damped_gain, limit_gain

Array = np.ndarray


class GroundTruthDistiller(Distiller):
    """Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization Imposed by
    Self-Distillation. Borup & Andersen, 2021 (arXiv 2102.13088).

    Each step fits anew to ``alpha`` times the labels plus ``1 - alpha`` times the predictions of the step
    before. At ``alpha = 0`` every step multiplies the spectrum once more and ends in nothing; a share of
    labels ends in the same ridge with ``ridge / alpha`` in its place.

    ``steps``: fits in all, the first on labels alone; ``math.inf`` for the limit (one ``alpha`` in (0, 1]
    then). ``alpha``: share of the labels, ``validation`` (the best of each step by its closed form, on folds
    or on the pair given to :meth:`fit`), one number, or one a step after the first. The other settings are
    those of :class:`stillhouse.classical.distiller.Distiller`.

    After ``fit``: ``ridge_``, ``alphas_`` and, for the linear kernel, ``coef_``.
    """

    kind = "estimator"
    worlds = ("tables",)
    needs = ("labels",)

    def __init__(
        self,
        estimator: Any = None,
        *,
        ridge: Any = 1.0,
        steps: float = 3,
        alpha: Any = "validation",
        kernel: str = "rbf",
        gamma: float | None = None,
        fit_intercept: bool = True,
        folds: int = 5,
        random_state: Any = 0,
    ):
        self.estimator, self.ridge, self.steps, self.alpha = estimator, ridge, steps, alpha
        self.kernel, self.gamma, self.fit_intercept, self.folds, self.random_state = (
            kernel,
            gamma,
            fit_intercept,
            folds,
            random_state,
        )

    def _choose(self, ridge: float, whole: Fold, parts: Callable[[], list[Fold]]) -> Choice:
        if self.steps == math.inf:
            (share,) = numbers("alpha", self.alpha, 1) if not isinstance(self.alpha, str) else [math.nan]
            check(
                0 < share <= 1, f"The limit of endless steps takes one alpha in (0, 1], not {self.alpha!r}."
            )
            gains, alphas = (lambda a: limit_gain(a, share)), np.array([share])
        else:
            given = self._given()
            alphas = _best_shares(parts(), ridge, self._rounds()) if given is None else 1 - np.array(given)
            gains = lambda a: damped_gain(a, alphas)  # noqa: E731

        def risk() -> float:
            wrong = [f.y - f.predict(ridge, gains(f.spectrum.shrink(ridge))) for f in parts()]
            return float(np.mean(np.concatenate(wrong) ** 2))

        return Choice(ridge, risk, gains(whole.spectrum.shrink(ridge)), {"alphas_": alphas})

    def _repeat(self, X: Array, y: Array, held: tuple[Array, Array] | None) -> None:
        super()._repeat(X, y, held)
        self.alphas_ = 1 - self.factors_

    def _rounds(self) -> int:
        infinite = self.steps == math.inf and self.estimator is not None
        check(
            not infinite,
            "Only (kernel) ridge has a limit of endless steps; give another estimator a number of them.",
        )
        whole = isinstance(self.steps, int | np.integer) and self.steps >= 1
        check(whole, f"The number of steps is a whole number of 1 or more, or inf, not {self.steps!r}.")
        return int(self.steps) - 1

    def _given(self) -> list[float] | None:
        if isinstance(self.alpha, str):
            check(self.alpha == "validation", f"alpha is 'validation' or numbers, not '{self.alpha}'.")
            return None
        return [1 - a for a in numbers("alpha", self.alpha, self._rounds())]


def _best_shares(held: list[Fold], ridge: float, rounds: int) -> Array:
    """The best ``alpha`` of each step, (rounds,): predictions are affine in it, between the fit to labels and
    the fit to the last step."""
    y = np.concatenate([f.y for f in held])
    shrinks = [f.spectrum.shrink(ridge) for f in held]
    first = np.concatenate([f.predict(ridge) for f in held])
    shares: list[float] = []
    for _ in range(rounds):
        taught = np.concatenate(
            [
                f.predict(ridge, a * damped_gain(a, np.array(shares)))
                for f, a in zip(held, shrinks, strict=True)
            ]
        )
        shares.append(1 - best_mixing(y, first, taught))
    return np.array(shares)


class GroundTruthClassifier(SoftDistiller):
    """The same for classifiers, on their probabilities: the paper's way with networks (give a
    ``SoftMLP(loss="squared")``).

    ``steps``, ``alpha``: as in :class:`GroundTruthDistiller`, with ``validation`` on the pair given to
    :meth:`fit`: at each step the student of the teacher alone is trained, and the share of labels follows
    from it and the first model. ``estimator`` as in :class:`stillhouse.classical.soft.SoftDistiller`.
    """

    def __init__(self, estimator: Any = None, *, steps: int = 3, alpha: Any = 0.5):
        self.estimator, self.steps, self.alpha = estimator, steps, alpha

    def _rounds(self) -> int:
        whole = isinstance(self.steps, int | np.integer) and self.steps >= 1
        check(whole, f"The number of steps is a whole number of 1 or more, not {self.steps!r}.")
        return int(self.steps) - 1

    def _student(
        self, i: int, X: Array, given: Array, pred: Array, held: tuple[Array, Array] | None
    ) -> tuple[float, Any]:
        if not isinstance(self.alpha, str):
            return 1 - numbers("alpha", self.alpha, self._rounds())[i], None
        check(self.alpha == "validation", f"alpha is 'validation' or numbers, not '{self.alpha}'.")
        check(held is not None, "To choose alpha, give rows for it: fit(X, y, validation=(X_val, y_val)).")
        assert held is not None
        taught = self._taught(X, given, pred, 1.0)
        return best_mixing(
            held[1], self._probabilities(self.teacher_, held[0]), self._probabilities(taught, held[0])
        ), None
