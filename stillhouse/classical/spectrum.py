"""Ridge and kernel ridge in the eigenbasis of their Gram matrix, where every round of self-distillation is a
filter.

With ``K = U diag(d) U^T`` and ``a = d / (d + ridge)`` a fit to targets ``y`` predicts ``U diag(a) U^T y`` at
its own points. Fitting again to a mix of ``y`` and of these predictions multiplies each coordinate by a
polynomial in ``a``: all that a student of a student is, is a *gain* ``P`` per coordinate, relative to the
first fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics.pairwise import pairwise_kernels

Array = np.ndarray
SMALLEST = 1e-12  # eigenvalues below this share of the largest are zeros


@dataclass
class Spectrum:
    """The points of a fit. ``basis`` (n, r): eigenvectors ``U``; ``values`` (r,): eigenvalues ``d``;
    ``powers``: ``a`` at a given ridge.

    ``kernel``: ``linear`` (then ``directions`` (features, r) lead from inputs to coordinates) or any that
    :func:`sklearn.metrics.pairwise.pairwise_kernels` takes (then ``points`` are kept); ``gamma``: its width,
    None for the usual.
    """

    basis: Array
    values: Array
    kernel: str
    gamma: float | None = None
    directions: Array | None = None
    points: Array | None = None

    @classmethod
    def of(cls, X: Array, kernel: str = "linear", gamma: float | None = None) -> Spectrum:
        """The spectrum of a table. Works for more features than rows, and for columns that are constant.

        Arguments:
            X: rows, (n, features); for the linear kernel less their mean, where the fit has an intercept.
            kernel: ``linear`` or one of :func:`sklearn.metrics.pairwise.pairwise_kernels`.
            gamma: the kernel's width; None for scikit-learn's.

        Returns:
            The spectrum, without eigenvalues that are zero.
        """
        if kernel == "linear":
            u, s, vt = np.linalg.svd(X, full_matrices=False)
            kept = s**2 > SMALLEST * max(s[0] ** 2, np.finfo(float).tiny)
            return cls(u[:, kept], s[kept] ** 2, kernel, directions=vt[kept].T * s[kept])
        values, basis = np.linalg.eigh(_kernel(X, X, kernel, gamma))
        kept = values > SMALLEST * max(values[-1], np.finfo(float).tiny)
        return cls(basis[:, kept], values[kept], kernel, gamma, points=X)

    def shrink(self, ridge: float) -> Array:
        """``a = d / (d + ridge)``, (r,)."""
        return self.values / (self.values + ridge)

    def coordinates(self, y: Array) -> Array:
        """``U^T y``, (r, outputs), of targets (n, outputs)."""
        c: Array = self.basis.T @ y
        return c

    def weights(self, c: Array, ridge: float, gain: Array | float = 1.0) -> Array:
        """The weights of a fit, ``P c / (d + ridge)``.

        Arguments:
            c: coordinates of the targets, (r, outputs), see :meth:`coordinates`.
            ridge: penalty, 0 or more.
            gain: ``P``, (r,), or one for all; 1 for the first fit.

        Returns:
            What :meth:`predict` takes, (r, outputs).
        """
        weights: Array = np.broadcast_to(gain / (self.values + ridge), self.values.shape)[:, None] * c
        return weights

    def predict(self, X: Array, weights: Array) -> Array:
        """Predictions of a fit.

        Arguments:
            X: rows, (m, features), less the same mean as those of the fit.
            weights: of the fit, (r, outputs), see :meth:`weights`.

        Returns:
            Predictions, (m, outputs).
        """
        if self.directions is not None:
            pred: Array = X @ (self.directions @ weights)
        else:
            pred = _kernel(X, self.points, self.kernel, self.gamma) @ (self.basis @ weights)
        return pred


def _kernel(X: Array, Y: Array | None, kernel: str, gamma: float | None) -> Array:
    gram: Array = pairwise_kernels(X, Y, metric=kernel, filter_params=True, gamma=gamma)
    return gram


def repeated_gain(a: Array, weights: Array) -> Array:
    """``P = 1 - sum_i w_i (1 - a^i)``: the gain of as many rounds as there are weights (Pareek et al., 2024,
    arXiv 2407.04600).

    Arguments:
        a: the smoother's eigenvalues, (r,), in [0, 1].
        weights: of its powers, (rounds,), see :func:`stillhouse.classical.mixing.tails`.

    Returns:
        Gains, (r,).
    """
    gain: Array = 1 - gaps(a, len(weights)) @ weights
    return gain


def gaps(a: Array, rounds: int) -> Array:
    """``1 - a^i`` for ``i = 1 … rounds``.

    Arguments:
        a: the smoother's eigenvalues, (r,), in [0, 1].
        rounds: 0 or more.

    Returns:
        The differences, (r, rounds).
    """
    return 1 - a[:, None] ** np.arange(1, rounds + 1)


def damped_gain(a: Array, shares: Array) -> Array:
    """The gain after as many steps beyond the first as there are ``shares``, each mixing in that share of the
    labels.

    ``B_1 = a``, ``B_{i+1} = a ((1 - alpha_i) B_i + alpha_i)``; the gain is ``B / a`` (Borup & Andersen, 2021,
    arXiv 2102.13088, theorem 3).

    Arguments:
        a: the smoother's eigenvalues, (r,), in [0, 1].
        shares: ``alpha`` of each step, (steps,).

    Returns:
        Gains, (r,).
    """
    gain = np.ones_like(a)
    for share in shares:
        gain = (1 - share) * a * gain + share
    return gain


def limit_gain(a: Array, share: float) -> Array:
    """:func:`damped_gain` of endlessly many steps: that of the same ridge with ``ridge / share`` in its
    place; 0 at ``share = 0``.

    Arguments:
        a: the smoother's eigenvalues, (r,), in [0, 1].
        share: ``alpha`` of every step, in [0, 1].

    Returns:
        Gains, (r,).
    """
    return share / (1 - (1 - share) * a)
