"""repeated_sd: ridge regression that learns again from its own predictions, with the best mixing numbers in
closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stillhouse.classical.distiller import Choice, Distiller, Fold, numbers
from stillhouse.classical.mixing import TableError, best_weights, check, factors, tails
from stillhouse.classical.spectrum import gaps, repeated_gain

Array = np.ndarray


class RepeatedDistiller(Distiller):
    """Understanding the Gains from Repeated Self-Distillation. Pareek et al., 2024 (arXiv 2407.04600).

    Round ``i`` refits the same ridge to ``xi_i`` times its own predictions plus ``1 - xi_i`` times the
    labels; no ``xi`` is confined to [0, 1]. The whole of ``repeats`` rounds is a polynomial filter of that
    degree, so that its numbers are one small least-squares problem.

    ``repeats``: rounds, 0 for ridge alone. ``mixing``: ``validation`` (on folds, or on the pair given to
    :meth:`fit`), ``closed`` (Stein's unbiased estimate of the risk, which holds no rows out), one ``xi``, or
    one a round. ``noise_variance``: of the labels, for ``closed``; None: estimated from what least squares
    leaves over. The other settings are those of :class:`stillhouse.classical.distiller.Distiller`.

    After ``fit``: ``ridge_``, ``tails_`` (weights of the powers of the smoother), ``factors_`` (the ``xi``;
    None where the weights are those of no sequence of rounds) and, for the linear kernel, ``coef_``.
    """

    kind = "estimator"
    worlds = ("tables",)
    needs = ("labels",)

    def __init__(
        self,
        estimator: Any = None,
        *,
        ridge: Any = 1.0,
        repeats: int = 2,
        mixing: Any = "validation",
        noise_variance: float | None = None,
        kernel: str = "linear",
        gamma: float | None = None,
        fit_intercept: bool = True,
        folds: int = 5,
        random_state: Any = 0,
    ):
        self.estimator, self.ridge, self.repeats, self.mixing, self.noise_variance = (
            estimator,
            ridge,
            repeats,
            mixing,
            noise_variance,
        )
        self.kernel, self.gamma, self.fit_intercept, self.folds, self.random_state = (
            kernel,
            gamma,
            fit_intercept,
            folds,
            random_state,
        )

    def _choose(self, ridge: float, whole: Fold, parts: Callable[[], list[Fold]]) -> Choice:
        a, given = whole.spectrum.shrink(ridge), self._given()
        if given is None and self.mixing == "closed":
            noise = _noise_of(whole, a) if self.noise_variance is None else float(self.noise_variance)
            check(noise >= 0, f"The variance of the labels' noise is 0 or more, not {self.noise_variance}.")
            weights = least_risk(a, whole.c, noise, self._rounds())
            return self._found(ridge, a, weights, lambda: estimated_risk(a, whole.c, noise, weights))
        weights = (
            tails(given) if given is not None else best_weights(*_held_out(parts(), ridge, self._rounds()))
        )

        def risk() -> float:
            y, plain, powers = _held_out(parts(), ridge, self._rounds())
            pred = plain + sum(w * (p - plain) for w, p in zip(weights, powers, strict=True))
            return float(np.mean((y - pred) ** 2))

        return self._found(ridge, a, weights, risk)

    @staticmethod
    def _found(ridge: float, a: Array, weights: Array, risk: Callable[[], float]) -> Choice:
        try:
            xi: Array | None = factors(weights) if len(weights) else weights
        except TableError:
            xi = None
        return Choice(ridge, risk, repeated_gain(a, weights), {"tails_": weights, "factors_": xi})

    def _rounds(self) -> int:
        whole = isinstance(self.repeats, int | np.integer) and self.repeats >= 0
        check(whole, f"The number of repeats is a whole number of 0 or more, not {self.repeats!r}.")
        return int(self.repeats)

    def _given(self) -> list[float] | None:
        if not isinstance(self.mixing, str):
            return numbers("mixing", self.mixing, self._rounds())
        known = ("validation",) if self.estimator is not None else ("validation", "closed")
        check(self.mixing in known, f"mixing is {' or '.join(known)} here, or numbers, not '{self.mixing}'.")
        return None


def _held_out(parts: list[Fold], ridge: float, rounds: int) -> tuple[Array, Array, list[Array]]:
    """Targets of the held-out rows, the first fit's predictions of them, and those of fits with 1 … rounds
    rounds of pure teaching."""
    y = np.concatenate([f.y for f in parts])
    plain, *powers = (
        np.concatenate([f.predict(ridge, f.spectrum.shrink(ridge) ** i) for f in parts])
        for i in range(rounds + 1)
    )
    return y, plain, powers


def least_risk(a: Array, c: Array, noise: float, rounds: int) -> Array:
    """The weights of least estimated risk: the minimum of the parabola that :func:`estimated_risk` is.

    Arguments:
        a: the smoother's eigenvalues, (r,).
        c: coordinates of the labels, (r, outputs).
        noise: variance of the labels' noise.
        rounds: how many weights, 0 or more.

    Returns:
        Weights of the smoother's powers, (rounds,).
    """
    rows, size = a[:, None] * gaps(a, rounds), (c**2).sum(1)
    square = rows.T @ (size[:, None] * rows)
    weights: Array = np.linalg.lstsq(square, rows.T @ (noise * c.shape[1] - (1 - a) * size), rcond=1e-12)[0]
    return weights


def estimated_risk(a: Array, c: Array, noise: float, weights: Array) -> float:
    """Stein's unbiased estimate of the squared error on the training points, up to a constant: ``sum (1-h)^2
    c^2 + 2 noise sum h``.

    Arguments:
        a: the smoother's eigenvalues, (r,).
        c: coordinates of the labels, (r, outputs).
        noise: variance of the labels' noise.
        weights: of the smoother's powers, (rounds,).

    Returns:
        The risk, summed over points and outputs.
    """
    h = a * repeated_gain(a, weights)
    return float((((1 - h)[:, None] * c) ** 2).sum() + 2 * noise * c.shape[1] * h.sum())


def _noise_of(whole: Fold, a: Array) -> float:
    """Variance of the labels' noise, from what least squares leaves over; where it leaves nothing over, from
    what ridge does."""
    left, size = len(whole.y) - len(a) - 1, whole.y.shape[1]
    if left >= 1:
        return float(max(float((whole.y**2).sum() - (whole.c**2).sum()), 0.0) / (left * size))
    missed = 1 - a
    return float(((missed[:, None] * whole.c) ** 2).sum() / (size * max(missed.sum(), 1e-12)))


def best_for(s: Array, t: Array, noise: float, ridge: float, rounds: int) -> Array:
    """The weights of least true risk, for a known truth.

    Arguments:
        s: eigenvalues of ``X X^T``, (d,).
        t: coordinates of the true weights, (d,).
        noise: variance of the labels' noise.
        ridge: penalty, above 0.
        rounds: how many weights.

    Returns:
        Weights of the smoother's powers, (rounds,).
    """
    a = s / (s + ridge)
    rows, root = gaps(a, rounds), np.sqrt(noise)
    signal = np.sqrt(s) * np.abs(t)
    left = np.concatenate([(signal * a)[:, None] * rows, (root * a)[:, None] * rows])
    right = np.concatenate([-signal * (1 - a), root * a])
    weights: Array = np.linalg.lstsq(left, right, rcond=1e-13)[0]
    return weights


def true_risk(s: Array, t: Array, noise: float, ridge: float, weights: Array, n: int = 1) -> float:
    """Excess risk on ``n`` fixed points: ``(1/n) sum_j s_j [t_j^2 (1 - P_j a_j)^2 + noise P_j^2 s_j / (s_j +
    ridge)^2]``.

    Arguments:
        s: eigenvalues of ``X X^T``, (d,).
        t: coordinates of the true weights, (d,).
        noise: variance of the labels' noise.
        ridge: penalty, above 0.
        weights: of the smoother's powers, (rounds,).
        n: how many points; 1 for the sum over them.

    Returns:
        The risk.
    """
    a = s / (s + ridge)
    gain = repeated_gain(a, weights)
    return float((s * t**2 * (1 - gain * a) ** 2 + noise * (gain * a) ** 2).sum() / n)
