"""label_noise_sd: where labels are wrong, trust the teacher, and past a point push the student away from
them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stillhouse.classical.mixing import check
from stillhouse.classical.soft import SoftDistiller

Array = np.ndarray


class NoisyLabelDistiller(SoftDistiller):
    """Understanding Self-Distillation in the Presence of Label Noise. Das & Sanghavi, 2023 (arXiv
    2301.13304).

    One student learns from the signed target ``xi p_teacher + (1 - xi) onehot(label)``. The more labels are
    wrong, the larger the best ``xi``; with strong noise it is above 1.

    ``xi``: the imitation number, or ``validation``: the one of ``sweep`` that classifies the pair given to
    :meth:`fit` best, whose labels must be clean (noisy ones drive ``xi`` back below 1). ``estimator`` as in
    :class:`stillhouse.classical.soft.SoftDistiller`.
    """

    kind = "estimator"
    worlds = ("tables",)
    needs = ("labels",)

    def __init__(
        self, estimator: Any = None, *, xi: Any = 1.0, sweep: Sequence[float] = (0.5, 1.0, 1.3, 1.6, 2.0)
    ):
        self.estimator, self.xi, self.sweep = estimator, xi, sweep

    def _rounds(self) -> int:
        return 1

    def _student(
        self, i: int, X: Array, given: Array, pred: Array, held: tuple[Array, Array] | None
    ) -> tuple[float, Any]:
        if not isinstance(self.xi, str):
            check(
                bool(np.isscalar(self.xi) and np.isfinite(self.xi)),
                f"xi is one finite number or 'validation', not {self.xi!r}.",
            )
            return float(self.xi), None
        check(self.xi == "validation", f"xi is a number or 'validation', not '{self.xi}'.")
        check(held is not None, "To choose xi, give clean rows: fit(X, y, validation=(X_clean, y_clean)).")
        check(len(self.sweep) > 0, "The sweep over xi is empty.")
        assert held is not None
        students = [(float(xi), self._taught(X, given, pred, xi)) for xi in self.sweep]
        return max(students, key=lambda s: self._right(s[1], *held))

    def _right(self, student: Any, X: Array, y: Array) -> tuple[float, float]:
        """Accuracy, and likelihood where that ties."""
        p = self._probabilities(student, X)
        return float((p.argmax(1) == y.argmax(1)).mean()), float(np.log((p * y).sum(1) + 1e-12).mean())


def parameter_error(xi: float, s: Array, t: Array, noise: float, ridge: float) -> float:
    """Expected squared error of the student's weights in ridge regression (Das & Sanghavi, 2023, section 3).

    ``sum_j t^2 b^2 (1 + xi a)^2 + noise (1 - xi b)^2 s / (s + ridge)^2`` with ``a = s / (s + ridge)``, ``b =
    1 - a``.

    Arguments:
        xi: the imitation number.
        s: eigenvalues of ``X X^T``, (d,).
        t: coordinates of the true weights, (d,).
        noise: variance of the labels.
        ridge: penalty, above 0.

    Returns:
        The error.
    """
    a = s / (s + ridge)
    b = 1 - a
    return float((t**2 * b**2 * (1 + xi * a) ** 2 + noise * (1 - xi * b) ** 2 * s / (s + ridge) ** 2).sum())


def best_imitation(s: Array, t: Array, noise: float, ridge: float) -> float:
    """The ``xi`` of the least :func:`parameter_error`, in closed form: positive where ``ridge`` is too small,
    above 1 where noise is strong.

    Arguments:
        s: eigenvalues of ``X X^T``, (d,).
        t: coordinates of the true weights, (d,).
        noise: variance of the labels.
        ridge: penalty, above 0.

    Returns:
        ``xi``, any number.
    """
    w = s + ridge
    return float((s * (noise - ridge * t**2) / w**3).sum() / (ridge * (s * (noise + s * t**2) / w**4).sum()))
