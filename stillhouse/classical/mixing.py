"""Label mixing: a student learns from ``(1 - xi) y + xi f(x)``, and the best ``xi`` is found without a
search.

All of classical self-distillation is this line; ``xi`` multiplies the teacher and may be negative or above 1.
Where a fit is linear in its targets, its predictions are affine in ``xi``, so that validation error is a
parabola whose minimum is a formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from stillhouse.core.errors import StillhouseError

Array = np.ndarray


class TableError(StillhouseError, ValueError):
    """A mistake in a table or a setting of an estimator; a ``ValueError``, as scikit-learn expects."""


def check(condition: bool, sentence: str) -> None:
    """Raise :class:`TableError` with ``sentence`` unless ``condition`` holds.

    Arguments:
        condition: what has to hold.
        sentence: what was wrong, with which value, and what to do.
    """
    if not condition:
        raise TableError(sentence)


def mix(y: Array, pred: Array, xi: float) -> Array:
    """The student's targets, ``(1 - xi) y + xi pred``.

    Arguments:
        y: labels, (n,) or (n, outputs).
        pred: the teacher's predictions, of the same shape.
        xi: weight of the teacher, any number.

    Returns:
        Targets, of the same shape.
    """
    return (1 - xi) * y + xi * pred


def best_mixing(y: Array, given: Array, taught: Array) -> float:
    """The ``xi`` at which ``(1 - xi) given + xi taught`` is nearest to ``y``, in mean square over all
    entries.

    With ``alpha = 1 - xi`` it is the closed form of Borup & Andersen, 2021 (arXiv 2102.13088).

    Arguments:
        y: validation targets, (m, outputs).
        given: predictions there of the student that learned from labels alone.
        taught: predictions there of the student that learned from the teacher alone.

    Returns:
        ``xi``, any number; 0 where the two students agree.
    """
    step = (taught - given).ravel()
    square = float(step @ step)
    return float((y - given).ravel() @ step) / square if square > 0 else 0.0


def tails(factors: Sequence[float]) -> Array:
    """Weights ``xi_bar`` of the powers of the smoother from the factors ``xi_1 … xi_k`` of the rounds.

    ``xi_bar_i = (1 - xi_{k-i}) xi_{k-i+1} … xi_k`` with ``xi_0 = 0`` (Pareek et al., 2024, arXiv 2407.04600).
    """
    xi = [0.0, *factors]
    k = len(factors)
    return np.array([(1 - xi[k - i]) * prod(xi[k - i + 1 :]) for i in range(1, k + 1)])


def factors(weights: Array) -> Array:
    """The inverse of :func:`tails`: ``xi_{k-i} = r_{i+1} / r_i`` with tail sums ``r``.

    Raises :class:`TableError` where a tail sum vanishes: such weights are those of no sequence of rounds.
    """
    sums = np.cumsum(np.asarray(weights, dtype=float)[::-1])[::-1]
    sentence = (
        f"The weights {np.round(weights, 4).tolist()} belong to no sequence of rounds: a tail of them "
        "sums to 0."
    )
    check(bool(np.all(sums[:-1] != 0)), sentence)
    return np.array([*(sums[1:] / sums[:-1])[::-1], sums[0]])


def best_weights(y: Array, plain: Array, powers: Sequence[Array]) -> Array:
    """The weights with which ``plain + sum_i w_i (powers_i - plain)`` is nearest to ``y``: least squares,
    smallest solution.

    Arguments:
        y: validation targets, (m, outputs).
        plain: predictions there of the first fit.
        powers: predictions there of fits with 1, 2 … rounds of pure teaching.

    Returns:
        A weight for each of ``powers``.
    """
    if not len(powers):
        return np.zeros(0)
    columns = np.stack([(p - plain).ravel() for p in powers], 1)
    weights: Array = np.linalg.lstsq(columns, (y - plain).ravel(), rcond=1e-10)[0]
    return weights
