"""Classifiers that learn from soft, even signed, targets: a small network of ours, and any of scikit-learn's
by weighted rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data
from torch import nn

from stillhouse.classical.mixing import check, mix

Array = np.ndarray
LOSSES = ("cross_entropy", "squared")


def _labels_of(estimator: Any, X: Any, y: Any) -> tuple[Array, Array]:
    """Checked inputs (n, features) and one-hot labels (n, classes); sets ``classes_``."""
    X, y = validate_data(estimator, X, y, dtype=np.float64, ensure_min_samples=2)
    check_classification_targets(y)
    estimator.classes_, index = np.unique(y, return_inverse=True)
    check(
        len(estimator.classes_) >= 2,
        f"A classifier learns from 2 classes or more; every label here is class {estimator.classes_[0]}.",
    )
    return X, np.eye(len(estimator.classes_))[index]


class SoftMLP(ClassifierMixin, BaseEstimator):
    """A torch MLP on the whole batch at once, by Adam: ``fit`` on labels, or :meth:`fit_soft` on targets that
    need not be probabilities.

    ``hidden``: units of each hidden layer; none: a linear softmax. ``loss``: ``cross_entropy``, ``-sum_k q_k
    log p_k`` with targets ``q`` as they are (negative ones leave it unbounded below; ``decay`` and
    ``iterations`` hold it), or ``squared``, between softmax and ``q``. ``decay``: weight of the sum of
    squared weights.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (128,),
        *,
        iterations: int = 600,
        lr: float = 3e-3,
        decay: float = 1e-3,
        loss: str = "cross_entropy",
        random_state: Any = 0,
    ):
        self.hidden, self.iterations, self.lr, self.decay, self.loss = hidden, iterations, lr, decay, loss
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> SoftMLP:
        """Learn from labels.

        Arguments:
            X: inputs, (n, features), of 2 rows or more.
            y: labels, (n,), of 2 classes or more.

        Returns:
            The estimator itself.
        """
        X, q = _labels_of(self, X, y)
        return self.fit_soft(X, q, self.classes_)

    def fit_soft(self, X: Array, q: Array, classes: Array) -> SoftMLP:
        """Learn from targets that need not be probabilities.

        Arguments:
            X: inputs, (n, features).
            q: targets, (n, classes), rows of which sum to 1; entries may be negative.
            classes: the labels that the columns stand for, (classes,).

        Returns:
            The estimator itself. Raises :class:`TableError` for a setting that can't be used.
        """
        check(self.loss in LOSSES, f"The loss of an MLP is {' or '.join(LOSSES)}, not '{self.loss}'.")
        check(
            self.iterations >= 1 and self.lr > 0 and self.decay >= 0,
            "An MLP takes an iteration or more, a positive lr and decay >= 0.",
        )
        self.classes_, self.n_features_in_ = classes, X.shape[1]
        self.layers_ = self._layers([X.shape[1], *self.hidden, len(classes)])
        inputs, targets = torch.from_numpy(np.ascontiguousarray(X)).float(), torch.from_numpy(q).float()
        weights = [p for p in self.layers_.parameters() if p.dim() > 1]
        adam = torch.optim.Adam(self.layers_.parameters(), lr=self.lr)
        for _ in range(self.iterations):
            logits = self.layers_(inputs)
            gap = (
                -(targets * logits.log_softmax(1))
                if self.loss == "cross_entropy"
                else (targets - logits.softmax(1)).square()
            )
            loss = gap.sum(1).mean() + self.decay * sum(w.square().sum() for w in weights)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return self

    def _layers(self, sizes: list[int]) -> nn.Sequential:
        """Fresh layers, their weights drawn from ``random_state`` alone."""
        generator = torch.Generator().manual_seed(
            int(check_random_state(self.random_state).randint(2**31 - 1))
        )
        made: list[nn.Module] = []
        for inner, outer in zip(sizes, sizes[1:], strict=False):
            layer = nn.utils.skip_init(nn.Linear, inner, outer)
            bound = inner**-0.5
            with torch.no_grad():
                for p in layer.parameters():
                    p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)
            made += [layer, nn.ReLU()]
        return nn.Sequential(*made[:-1])

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (m, classes)."""
        check_is_fitted(self, "layers_")
        X = validate_data(self, X, reset=False, dtype=np.float64)
        with torch.inference_mode():
            logits: torch.Tensor = self.layers_(torch.from_numpy(np.ascontiguousarray(X)).float())
            return logits.double().softmax(1).numpy()

    def predict(self, X: Any) -> Array:
        """Labels (m,)."""
        p = self.predict_proba(X)
        labels: Array = self.classes_[p.argmax(1)]
        return labels


def fit_soft(estimator: Any, X: Array, q: Array, classes: Array) -> Any:
    """A fresh copy of a classifier, fitted to soft targets.

    One that has ``fit_soft`` is given them as they are. Any other sees each row once per class, weighted by
    its target, where negative targets count as 0 (which keeps the gain of signed ones and bounds the loss).

    Arguments:
        estimator: the classifier that is copied, unfitted; raises :class:`TableError` where its ``fit`` takes
            neither.
        X: inputs, (n, features).
        q: targets, (n, classes), rows of which sum to 1; entries may be negative.
        classes: the labels that the columns stand for, (classes,).

    Returns:
        The fitted copy.
    """
    fresh = clone(estimator)
    if hasattr(fresh, "fit_soft"):
        return fresh.fit_soft(X, q, classes)
    name = type(fresh).__name__
    check(
        has_fit_parameter(fresh, "sample_weight"),
        f"{name} can't learn from soft labels: its fit takes no sample_weight.",
    )
    row, label = np.nonzero(q > 0)
    return fresh.fit(X[row], classes[label], sample_weight=q[row, label])


class SoftDistiller(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """A classifier that learns again from ``(1 - xi) onehot(y) + xi p``, ``p`` the probabilities of the one
    before. Subclasses find ``xi``.

    ``estimator``: any scikit-learn classifier with ``predict_proba`` that takes ``sample_weight`` or, as
    :class:`SoftMLP`, soft targets; None: logistic regression. Every student starts fresh. After ``fit``:
    ``teacher_``, ``student_``, ``factors_`` (the ``xi`` of each round).
    """

    estimator: Any

    def fit(self, X: Any, y: Any, *, validation: tuple[Any, Any] | None = None) -> SoftDistiller:
        """Learn from a table of labels.

        Arguments:
            X: inputs, (n, features), of 2 rows or more.
            y: labels, (n,), of 2 classes or more.
            validation: a pair ``(X, y)`` with *clean* labels to choose mixing numbers on; None where they are
                given.

        Returns:
            The estimator itself.
        """
        X, given = _labels_of(self, X, y)
        held = None if validation is None else self._held(*validation)
        first = LogisticRegression(max_iter=1000) if self.estimator is None else self.estimator
        check(
            hasattr(first, "predict_proba"),
            f"{type(first).__name__} has no predict_proba, whose probabilities are to be learned.",
        )
        self.base_ = first
        self.teacher_ = self.student_ = fit_soft(first, X, given, self.classes_)
        found: list[float] = []
        for i in range(self._rounds()):
            pred = self._probabilities(self.student_, X)
            xi, student = self._student(i, X, given, pred, held)
            found.append(xi)
            self.student_ = student if student is not None else self._taught(X, given, pred, xi)
        self.factors_ = np.array(found)
        return self

    def _rounds(self) -> int:
        raise NotImplementedError

    def _student(
        self, i: int, X: Array, given: Array, pred: Array, held: tuple[Array, Array] | None
    ) -> tuple[float, Any]:
        """The factor of round ``i``, and its student where one was trained to find it."""
        raise NotImplementedError

    def _taught(self, X: Array, given: Array, pred: Array, xi: float) -> Any:
        return fit_soft(self.base_, X, mix(given, pred, xi), self.classes_)

    def _held(self, X: Any, y: Any) -> tuple[Array, Array]:
        X, y = validate_data(self, X, y, reset=False, dtype=np.float64)
        strange = sorted(set(np.unique(y).tolist()) - set(self.classes_.tolist()))
        check(
            not strange,
            f"The validation data holds the class {strange[0] if strange else ''!r}, which the training "
            "data lacks.",
        )
        return X, np.eye(len(self.classes_))[np.searchsorted(self.classes_, y)]

    @staticmethod
    def _probabilities(student: Any, X: Array) -> Array:
        return np.asarray(student.predict_proba(X), dtype=float)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (m, classes)."""
        check_is_fitted(self, "student_")
        return self._probabilities(self.student_, validate_data(self, X, reset=False, dtype=np.float64))

    def predict(self, X: Any) -> Array:
        """Labels (m,)."""
        p = self.predict_proba(X)
        labels: Array = self.classes_[p.argmax(1)]
        return labels
