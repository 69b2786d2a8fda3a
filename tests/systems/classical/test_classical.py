"""The self-distilled estimators: scikit-learn's own contract, closed forms against minimisation, and the
cards' numbers."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from stillhouse.classical.mixing import best_mixing, best_weights, factors, mix, tails
from stillhouse.classical.soft import SoftMLP, fit_soft
from stillhouse.classical.spectrum import Spectrum, damped_gain, limit_gain, repeated_gain
from stillhouse.core.errors import StillhouseError
from stillhouse.systems.classical.gt_sd import GroundTruthClassifier, GroundTruthDistiller
from stillhouse.systems.classical.label_noise_sd import NoisyLabelDistiller, best_imitation, parameter_error
from stillhouse.systems.classical.repeated_sd import (
    RepeatedDistiller,
    best_for,
    estimated_risk,
    least_risk,
    true_risk,
)
from stillhouse.worlds.tables.world import Tables

TREE = DecisionTreeRegressor(max_depth=3, random_state=0)
MLP = SoftMLP((16,), iterations=80, lr=0.03)
# the eleven noisy points of the paper's toy, from its notebook's picture of sin(2 pi x)
X_TOY = np.linspace(0, 1, 11)[:, None]


@parametrize_with_checks(
    [
        RepeatedDistiller(),
        RepeatedDistiller(mixing="closed", ridge=[0.1, 1.0, 10.0]),
        RepeatedDistiller(TREE, mixing=0.7),
        GroundTruthDistiller(),
        GroundTruthDistiller(kernel="linear", steps=math.inf, alpha=0.5),
        GroundTruthDistiller(TREE, alpha=0.5),
        NoisyLabelDistiller(),
        NoisyLabelDistiller(MLP, xi=1.5),
        GroundTruthClassifier(),
        MLP,
    ]
)
def test_scikit_learns_own_contract(estimator, check):
    check(estimator)


def table(n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.linspace(2, 0.5, d)
    return X, X @ rng.standard_normal(d) + rng.standard_normal(n)


def test_mixing_is_the_minimum_of_the_mixed_loss():
    X, y = table()
    teacher, xi, ridge = Ridge(alpha=3.0, fit_intercept=False).fit(X, y), 1.7, 3.0

    def loss(w):
        return (
            xi * ((X @ w - teacher.predict(X)) ** 2).sum()
            + (1 - xi) * ((X @ w - y) ** 2).sum()
            + ridge * (w**2).sum()
        )

    found = minimize(loss, np.zeros(5), tol=1e-12).x
    student = RepeatedDistiller(ridge=ridge, repeats=1, mixing=xi, fit_intercept=False).fit(X, y)
    np.testing.assert_allclose(student.coef_[0], found, atol=1e-5)
    np.testing.assert_allclose(
        student.coef_[0],
        Ridge(alpha=ridge, fit_intercept=False).fit(X, mix(y, teacher.predict(X), xi)).coef_,
        atol=1e-10,
    )


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_rounds_in_closed_form_are_rounds(kernel):
    X, y = table()
    xi = [0.4, -1.3, 2.1]
    one = RepeatedDistiller(
        ridge=0.7, repeats=3, mixing=xi, kernel=kernel, gamma=0.1, fit_intercept=False
    ).fit(X, y)
    base = (
        Ridge(alpha=0.7, fit_intercept=False)
        if kernel == "linear"
        else KernelRidge(alpha=0.7, kernel="rbf", gamma=0.1)
    )
    other = RepeatedDistiller(base, repeats=3, mixing=xi).fit(X, y)
    new = table(seed=1)[0]
    np.testing.assert_allclose(one.predict(new), other.predict(new), atol=1e-10)
    np.testing.assert_allclose(factors(tails(xi)), xi, atol=1e-12)


def test_weights_of_least_risk_are_the_minimum():
    rng = np.random.default_rng(3)
    s, t, noise = np.array([4.0, 3.0, 2.0, 1.0]), rng.standard_normal(4), 0.3
    best = best_for(s, t, noise, 0.5, 2)
    assert (
        minimize(lambda w: true_risk(s, t, noise, 0.5, w), np.zeros(2), tol=1e-14).fun
        >= true_risk(s, t, noise, 0.5, best) - 1e-10
    )
    a, c = s / (s + 0.5), rng.standard_normal((4, 2))
    stein = least_risk(a, c, noise, 2)
    assert (
        minimize(lambda w: estimated_risk(a, c, noise, w), np.zeros(2), tol=1e-14).fun
        >= estimated_risk(a, c, noise, stein) - 1e-9
    )


def test_the_cards_exact_risks():
    """Four directions, the truth on the first: risk over the oracle's 3.55, 1.86, 1.14, 1.00 with 0, 1, 2, 4
    rounds."""
    s, t, noise = np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0, 0, 0]), 0.04
    oracle = noise * s[0] / (s[0] + noise)
    for rounds, wanted in ((0, 3.55), (1, 1.86), (2, 1.14), (4, 1.00)):
        risk = min(
            true_risk(s, t, noise, r, best_for(s, t, noise, r, rounds)) for r in np.geomspace(1e-3, 1e4, 400)
        )
        assert risk / oracle == pytest.approx(wanted, abs=0.012)


def test_validated_mixing_is_least_squares_of_the_held_out_rows():
    X, y = table(80)
    chosen = RepeatedDistiller(ridge=5.0, repeats=2).fit(X[:40], y[:40], validation=(X[40:], y[40:]))

    def error(xi):
        model = RepeatedDistiller(ridge=5.0, repeats=2, mixing=list(xi)).fit(X[:40], y[:40])
        return ((model.predict(X[40:]) - y[40:]) ** 2).mean()

    best = error(chosen.factors_)
    assert all(
        error(chosen.factors_ + step) > best for step in ([0.05, 0], [-0.05, 0], [0, 0.05], [0, -0.05])
    )
    closed = RepeatedDistiller(ridge=[0.1, 1, 10, 100], mixing="closed").fit(X, y)
    assert closed.ridge_ in (0.1, 1, 10, 100) and np.isfinite(closed.predict(X)).all()


def test_the_papers_toy_series():
    """Constant shares of labels on the sine of Borup & Andersen: the spectrum's recursion, and its limit,
    against fits one by one."""
    rng = np.random.default_rng(0)
    y = np.sin(2 * np.pi * X_TOY[:, 0]) + 0.5 * rng.standard_normal(11)
    K = np.exp(-80 * (X_TOY - X_TOY.T) ** 2)
    for alpha in (0.0, 0.25, 0.35):
        pred = y
        for step in range(1, 7):
            pred = K @ np.linalg.solve(
                K + 0.2 * np.eye(11), pred if step == 1 else alpha * y + (1 - alpha) * pred
            )
            model = GroundTruthDistiller(
                ridge=0.2, steps=step, alpha=alpha, gamma=80, fit_intercept=False
            ).fit(X_TOY, y)
            np.testing.assert_allclose(model.predict(X_TOY), pred, atol=1e-12)
    limit = GroundTruthDistiller(ridge=0.2, steps=math.inf, alpha=0.25, gamma=80, fit_intercept=False).fit(
        X_TOY, y
    )
    far = GroundTruthDistiller(ridge=0.2, steps=200, alpha=0.25, gamma=80, fit_intercept=False).fit(X_TOY, y)
    same = KernelRidge(alpha=0.2 / 0.25, kernel="rbf", gamma=80).fit(X_TOY, y)
    np.testing.assert_allclose(limit.predict(X_TOY), same.predict(X_TOY), atol=1e-12)
    assert np.abs(limit.predict(X_TOY) - far.predict(X_TOY)).max() < 1e-8


def test_the_best_share_is_the_grids():
    X, y = table(90)
    parts = X[:45], y[:45], X[45:], y[45:]
    chosen = GroundTruthDistiller(ridge=0.5, steps=3, gamma=0.05).fit(
        parts[0], parts[1], validation=parts[2:]
    )
    first = chosen.alphas_[0]
    grid = np.linspace(first - 0.02, first + 0.02, 41)

    def error(alpha):
        model = GroundTruthDistiller(ridge=0.5, steps=2, alpha=alpha, gamma=0.05).fit(parts[0], parts[1])
        return ((model.predict(parts[2]) - parts[3]) ** 2).mean()

    assert abs(grid[np.argmin([error(a) for a in grid])] - first) <= 1e-3
    assert best_mixing(np.ones(4), np.zeros(4), np.full(4, 2.0)) == 0.5
    assert best_weights(np.ones(4), np.zeros(4), [np.full(4, 2.0)])[0] == pytest.approx(0.5)


def test_gains_and_their_limits():
    a = np.array([0.9, 0.3])
    np.testing.assert_allclose(damped_gain(a, np.zeros(3)), a**3)
    np.testing.assert_allclose(damped_gain(a, np.full(400, 0.2)), limit_gain(a, 0.2), atol=1e-12)
    np.testing.assert_allclose(repeated_gain(a, np.array([1.0])), a)
    wide = Spectrum.of(np.random.default_rng(0).standard_normal((4, 30)))
    assert wide.values.shape == (4,)


@pytest.mark.parametrize("ridge", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("noise", [0.1, 1.0, 5.0, 20.0])
def test_best_imitation_is_the_minimum(ridge, noise):
    rng = np.random.default_rng(1)
    s, t = rng.gamma(2.0, 20.0, 10), rng.standard_normal(10)
    found = best_imitation(s, t, noise**2, ridge)
    e = [parameter_error(found + d, s, t, noise**2, ridge) for d in (-1, 0, 1)]
    assert abs(e[0] - e[2]) / 2 < 1e-6 * max(abs(found), 1) * (e[0] - 2 * e[1] + e[2])
    assert best_imitation(s, t, 1e8, ridge) > 1


def two_scores(p, n, c, ridge, targets=None):
    """Scores of good and of flipped points of class 1 in ridge-logistic regression, by the two equations of
    symmetry."""
    targets = targets or (1.0, 0.0)

    def scores(u):
        total = n * ((1 - p) * u[0] + p * u[1])
        return [(1 - c) * v + c * total for v in u]

    def gap(u):
        f = scores(u)
        return [u[i] - (targets[i] - 1 / (1 + math.exp(-f[i]))) / (ridge * 2 * n) for i in (0, 1)]

    from scipy.optimize import fsolve

    return scores(fsolve(gap, [0.1, -0.1], xtol=1e-13))


def test_a_student_sees_through_flipped_labels_that_blind_its_teacher():
    """n = 100, c = 0.05, ridge 3e-3: the teacher is right up to 0.193 flipped, its student up to 0.407, as a
    full solve says too."""
    n, c, ridge = 100, 0.05, 3e-3

    def flipped(p, student):
        f = two_scores(p, n, c, ridge)
        if student:
            f = two_scores(p, n, c, ridge, tuple(1 / (1 + math.exp(-v)) for v in f))
        return f[1]

    # the two classes push with equal and opposite force, so that a score of 0 divides right from wrong
    assert brentq(lambda p: flipped(p, False), 0.02, 0.49) == pytest.approx(0.193, abs=2e-3)
    assert brentq(lambda p: flipped(p, True), 0.02, 0.49) == pytest.approx(0.407, abs=2e-3)


def test_students_of_noisy_labels():
    split = Tables("wine").split(90, 40, noise=0.4)
    chosen = NoisyLabelDistiller(MLP, xi="validation", sweep=(0.5, 2.0)).fit(
        split.X, split.y, validation=(split.X_val, split.y_val)
    )
    right = [
        np.mean(NoisyLabelDistiller(MLP, xi=xi).fit(split.X, split.y).predict(split.X_val) == split.y_val)
        for xi in (0.5, 2.0)
    ]
    assert chosen.factors_[0] == (0.5, 2.0)[int(np.argmax(right))]
    soft = fit_soft(LogisticRegression(), split.X, np.full((90, 3), 1 / 3), np.arange(3))
    np.testing.assert_allclose(soft.predict_proba(split.X_val), 1 / 3, atol=1e-3)


def test_steps_of_a_classifier_with_shares_chosen():
    split = Tables("wine").split(80, 40)
    model = GroundTruthClassifier(
        SoftMLP((16,), iterations=100, lr=0.03, loss="squared"), steps=3, alpha="validation"
    )
    model.fit(split.X, split.y, validation=(split.X_val, split.y_val))
    assert model.factors_.shape == (2,) and model.score(split.X_test, split.y_test) > 0.9


def test_in_a_pipeline_and_a_grid_search():
    X, y = table(60)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), RepeatedDistiller()), {"repeateddistiller__repeats": [0, 2]}, cv=3
    ).fit(X, y)
    assert search.best_estimator_.score(X, y) > 0.5 and clone(search.best_estimator_)


@pytest.mark.parametrize(
    "make, pred",
    [
        (
            lambda X, y: RepeatedDistiller(ridge=-1.0).fit(X, y),
            "ridge is a finite number of 0 or more, not -1.0",
        ),
        (lambda X, y: RepeatedDistiller(repeats=-1).fit(X, y), "whole number of 0 or more, not -1"),
        (lambda X, y: RepeatedDistiller(mixing="best").fit(X, y), "not 'best'"),
        (lambda X, y: RepeatedDistiller(mixing=[1.0]).fit(X, y), "takes one finite number or 2"),
        (lambda X, y: RepeatedDistiller(TREE, mixing="closed").fit(X, y), "mixing is validation here"),
        (lambda X, y: RepeatedDistiller(kernel="rbf", gamma=-1.0).fit(X, y), "gamma of a kernel is positive"),
        (lambda X, y: RepeatedDistiller(kernel="cubist").fit(X, y), "kernel 'cubist'"),
        (
            lambda X, y: GroundTruthDistiller(steps=math.inf, alpha=0.0).fit(X, y),
            r"one alpha in \(0, 1\], not 0.0",
        ),
        (lambda X, y: GroundTruthDistiller(TREE, steps=math.inf).fit(X, y), "has a limit of endless steps"),
        (lambda X, y: NoisyLabelDistiller(xi="validation").fit(X, y > 0), "give clean rows"),
        (lambda X, y: NoisyLabelDistiller(KNeighborsClassifier()).fit(X, y > 0), "takes no sample_weight"),
        (lambda X, y: NoisyLabelDistiller().fit(X, np.zeros(60)), "every label here is class 0.0"),
        (
            lambda X, y: RepeatedDistiller().fit(X, y, validation=(X, np.stack([y, y], 1))),
            "has 2 outputs, the training data 1",
        ),
        (lambda X, y: Tables("diabetes").split(400, 42), "leave none to test on"),
        (lambda X, y: Tables("iris"), "no table 'iris'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(make, pred):
    with pytest.raises(StillhouseError, match=pred) as caught:
        make(*table())
    assert "\n" not in str(caught.value)


def test_degenerate_tables_are_learned_from():
    X, y = table(20)
    X[:, 2] = 1.0  # a constant column
    assert np.isfinite(RepeatedDistiller().fit(X, y).predict(X)).all()
    wide = np.random.default_rng(0).standard_normal((8, 40))
    assert np.isfinite(RepeatedDistiller(mixing="closed").fit(wide, wide[:, 0]).predict(wide)).all()
