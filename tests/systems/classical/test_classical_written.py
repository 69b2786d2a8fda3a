"""The classical systems, written out from their papers in plain numpy: fits by solving their equations,
shares and factors by grids and by least squares over fits made one by one, risks by summing over noises."""

import math

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state

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


def table(n=30, d=4, outputs=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.linspace(2, 0.5, d) + 1
    return X, X @ rng.standard_normal((d, outputs)) + rng.standard_normal((n, outputs)) + 3


X, Y = table()
NEW, TRUE = table(seed=1)
LOUD = Y + 4 * np.random.default_rng(7).standard_normal(Y.shape)


def gram(A, B, kernel, gamma):
    if kernel == "linear":
        return A @ B.T
    return np.exp(-gamma * ((A[:, None] - B[None]) ** 2).sum(-1))


def kernel_ridge(A, targets, ridge, kernel="linear", gamma=None, middle=None):
    """A fit with an intercept: the mean of the labels, and of linear inputs, is taken off and put back."""
    shift = A.mean(0) if kernel == "linear" else 0 * A.mean(0)
    middle = targets.mean(0) if middle is None else middle
    K = gram(A - shift, A - shift, kernel, gamma)
    dual = np.linalg.solve(K + ridge * np.eye(len(A)), targets - middle)
    return lambda B: gram(B - shift, A - shift, kernel, gamma) @ dual + middle


def splits(n, folds, seed):
    inner = check_random_state(seed).randint(2**31 - 1)
    return list(KFold(folds, shuffle=True, random_state=inner).split(np.empty(n)))


# -- gt_sd: a share alpha of the labels in every step ----------------------------------------------
def steps_of(A, targets, shares, ridge, kernel, gamma):
    fit = kernel_ridge(A, targets, ridge, kernel, gamma)
    for share in shares:
        mixed = share * targets + (1 - share) * fit(A)
        fit = kernel_ridge(A, mixed, ridge, kernel, gamma, targets.mean(0))
    return fit


def best_share(parts, before, ridge, kernel, gamma):
    """Affine in the share: labels alone, and the last step alone, on the held-out rows of all parts."""
    y, first, taught = [], [], []
    for A, targets, B, held in parts:
        last = steps_of(A, targets, before, ridge, kernel, gamma)
        y.append(held)
        first.append(kernel_ridge(A, targets, ridge, kernel, gamma)(B))
        taught.append(kernel_ridge(A, last(A), ridge, kernel, gamma, targets.mean(0))(B))
    y, first, taught = (np.concatenate(v) for v in (y, first, taught))
    return ((y - taught) * (first - taught)).sum() / ((first - taught) ** 2).sum()


@pytest.mark.parametrize(("kernel", "gamma"), [("linear", None), ("rbf", 0.1)])
def test_gt_sd_takes_its_steps_one_by_one(kernel, gamma):
    shares = [0.3, -0.2]
    model = GroundTruthDistiller(ridge=0.7, steps=3, alpha=shares, kernel=kernel, gamma=gamma).fit(X, Y)
    np.testing.assert_allclose(model.predict(NEW), steps_of(X, Y, shares, 0.7, kernel, gamma)(NEW), atol=1e-9)
    np.testing.assert_allclose(model.alphas_, shares, atol=1e-12)
    one = GroundTruthDistiller(ridge=0.7, steps=1, kernel=kernel, gamma=gamma).fit(X, Y)
    np.testing.assert_allclose(one.predict(NEW), kernel_ridge(X, Y, 0.7, kernel, gamma)(NEW), atol=1e-9)
    assert one.alphas_.shape == (0,)


@pytest.mark.parametrize("held", [False, True])
def test_gt_sd_finds_each_share_after_those_before_it(held):
    ridge, kernel, gamma = 2.0, "rbf", 0.05
    parts = [(X, Y, NEW, TRUE)] if held else [(X[i], Y[i], X[o], Y[o]) for i, o in splits(len(X), 4, 5)]
    model = GroundTruthDistiller(ridge=ridge, steps=4, gamma=gamma, folds=4, random_state=5)
    model.fit(X, Y, validation=(NEW, TRUE) if held else None)
    shares = []
    for _ in range(3):
        shares.append(best_share(parts, shares, ridge, kernel, gamma))
    np.testing.assert_allclose(model.alphas_, shares, rtol=1e-7)
    np.testing.assert_allclose(
        model.predict(NEW), steps_of(X, Y, shares, ridge, kernel, gamma)(NEW), atol=1e-8
    )


@pytest.mark.parametrize("settings", [{"steps": 3, "alpha": 0.4}, {"steps": math.inf, "alpha": 0.4}])
def test_gt_sd_takes_the_ridge_of_least_squared_error(settings):
    ridges, seed = (0.3, 8.0, 60.0), 2
    endless = settings["steps"] == math.inf

    def fit(A, targets, ridge):
        if endless:
            return kernel_ridge(A, targets, ridge / 0.4, "rbf", 0.05)
        return steps_of(A, targets, [0.4, 0.4], ridge, "rbf", 0.05)

    def error(ridge):
        gaps = [fit(X[i], Y[i], ridge)(X[o]) - Y[o] for i, o in splits(len(X), 5, seed)]
        return float(np.mean(np.concatenate(gaps) ** 2))

    best = min(ridges, key=error)
    model = GroundTruthDistiller(ridge=ridges, gamma=0.05, random_state=seed, **settings).fit(X, Y)
    assert model.ridge_ == best and model.alphas_.tolist() == pytest.approx([0.4] * (1 if endless else 2))
    np.testing.assert_allclose(model.predict(NEW), fit(X, Y, best)(NEW), atol=1e-9)


def test_gt_sd_picks_a_ridge_by_squares_and_no_other_power():
    """One held-out row that is far off decides by its square against many that are a little off."""
    A, targets = np.linspace(-1, 1, 8)[:, None], np.linspace(-1, 1, 8)[:, None] ** 3
    B = np.concatenate([np.linspace(-1, 1, 12), [3.0]])[:, None]
    chosen = {}
    for level in (0.5, 1.0, 2.0, 4.0):
        y = np.where(B > 2, level, 0.4 * B)
        errors = {r: float(((kernel_ridge(A, targets, r)(B) - y) ** 2).mean()) for r in (0.01, 3.0, 40.0)}
        model = GroundTruthDistiller(ridge=(0.01, 3.0, 40.0), steps=1, kernel="linear")
        chosen[level] = model.fit(A, targets, validation=(B, y)).ridge_
        assert chosen[level] == min(errors, key=errors.__getitem__)
    assert len(set(chosen.values())) > 1


def test_gt_sd_with_any_regressor_finds_its_shares_on_one_split():
    given = GroundTruthDistiller(Ridge(alpha=3.0), steps=3, alpha=[0.2, 0.6]).fit(X, Y)
    np.testing.assert_allclose(given.alphas_, [0.2, 0.6], atol=1e-12)
    same = GroundTruthDistiller(ridge=3.0, steps=3, alpha=[0.2, 0.6], kernel="linear").fit(X, Y)
    np.testing.assert_allclose(given.predict(NEW), same.predict(NEW), atol=1e-9)
    found = GroundTruthDistiller(Ridge(alpha=3.0), steps=3).fit(X, Y, validation=(NEW, TRUE))
    shares = []
    for _ in range(2):
        shares.append(best_share([(X, Y, NEW, TRUE)], shares, 3.0, "linear", None))
    np.testing.assert_allclose(found.alphas_, shares, rtol=1e-7)


# -- classifiers: what they are taught, and how the share is found ---------------------------------
class Table(ClassifierMixin, BaseEstimator):
    """A classifier that predicts a function of its soft targets: the mean of them over rows of the same
    input, drawn a little towards equal shares, or away from them, and not below 0. So what it was taught can
    be read from it."""

    def __init__(self, pull=0.2):
        self.pull = pull

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self.fit_soft(X, np.eye(len(self.classes_))[np.searchsorted(self.classes_, y)], self.classes_)

    def fit_soft(self, X, q, classes):
        self.classes_, self.inputs_ = classes, np.unique(X[:, 0])
        self.shares_ = np.stack([q[X[:, 0] == v].mean(0) for v in self.inputs_])
        return self

    def predict_proba(self, X):
        p = self.shares_[np.searchsorted(self.inputs_, X[:, 0])]
        return np.clip((1 - self.pull) * p + self.pull / p.shape[1], 0, None)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(1)]


INPUTS = np.repeat(np.arange(4.0), 3)[:, None]
LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 0, 2, 0, 1, 1])
MEANS = np.stack([np.eye(3)[LABELS[3 * i : 3 * i + 3]].mean(0) for i in range(4)])


def predicted(shares, pull=0.2):
    return np.clip((1 - pull) * shares + pull / 3, 0, None)


def test_label_noise_sd_teaches_once_from_the_signed_target():
    for xi in (-0.4, 1.0, 1.7):
        model = NoisyLabelDistiller(Table(), xi=xi).fit(INPUTS, LABELS)
        taught = (1 - xi) * MEANS + xi * predicted(MEANS)
        np.testing.assert_allclose(model.predict_proba(INPUTS[::3]), predicted(taught), atol=1e-12)
        assert model.factors_.tolist() == [xi]


def test_label_noise_sd_takes_the_factor_that_is_right_most_often_and_surest_where_that_ties():
    sweep = (30.0, -30.0, 8.0, 0.0, 1.0, -6.0, 2.0, 4.0)

    def judged(xi, y, pull):
        p = predicted((1 - xi) * MEANS + xi * predicted(MEANS, pull), pull)[INPUTS[:, 0].astype(int)]
        own = p[np.arange(len(y)), y]
        return (p.argmax(1) == y).mean(), np.log(own + 1e-12).mean()

    chosen = set()
    for pull in (0.2, -0.2):
        for clean in (MEANS.argmax(1), MEANS.argmin(1), np.array([0, 1, 0, 2]), np.array([2, 1, 2, 1])):
            y = np.repeat(clean, 3)
            found = NoisyLabelDistiller(Table(pull), xi="validation", sweep=sweep)
            found.fit(INPUTS, LABELS, validation=(INPUTS, y))
            wanted = max(sweep, key=lambda xi: judged(xi, y, pull))  # noqa: B023
            assert found.factors_.tolist() == [wanted]
            taught = (1 - wanted) * MEANS + wanted * predicted(MEANS, pull)
            np.testing.assert_allclose(found.predict_proba(INPUTS[::3]), predicted(taught, pull), atol=1e-12)
            chosen.add(wanted)
    assert len(chosen) > 2  # and at 30 and -30 some true classes have the probability 0
    one = NoisyLabelDistiller(Table(), xi="validation", sweep=(1.5,))
    assert one.fit(INPUTS, LABELS, validation=(INPUTS, LABELS)).factors_.tolist() == [1.5]


def test_gt_sd_of_classifiers_mixes_labels_and_the_last_steps_probabilities():
    model = GroundTruthClassifier(Table(), steps=3, alpha=[0.3, 0.8]).fit(INPUTS, LABELS)
    shares = MEANS
    for alpha in (0.3, 0.8):
        shares = alpha * MEANS + (1 - alpha) * predicted(shares)
    np.testing.assert_allclose(model.predict_proba(INPUTS[::3]), predicted(shares), atol=1e-12)
    assert GroundTruthClassifier(Table(), steps=1).fit(INPUTS, LABELS).factors_.shape == (0,)

    clean = np.repeat(np.array([0, 1, 2, 2]), 3)
    found = GroundTruthClassifier(Table(), steps=3, alpha="validation")
    found.fit(INPUTS, LABELS, validation=(INPUTS, clean))
    shares, y = MEANS, np.eye(3)[clean[::3]]
    for xi in found.factors_:
        first, taught = predicted(MEANS), predicted(predicted(shares))
        alpha = ((y - taught) * (first - taught)).sum() / ((first - taught) ** 2).sum()
        assert 1 - xi == pytest.approx(alpha)
        shares = alpha * MEANS + (1 - alpha) * predicted(shares)
    np.testing.assert_allclose(found.predict_proba(INPUTS[::3]), predicted(shares), atol=1e-12)


# -- label_noise_sd: the error of the weights, by drawing the noise --------------------------------
DESIGN = np.linalg.qr(np.random.default_rng(4).standard_normal((4, 4)))[0]
VALUES, WEIGHTS = np.array([9.0, 4.0, 1.5, 0.6]), np.array([0.7, -1.1, 0.4, 1.6])
INPUT = DESIGN @ np.diag(VALUES**0.5) @ np.linalg.qr(np.random.default_rng(5).standard_normal((7, 4)))[0].T
SPREAD = 0.3  # variance of the labels' noise


def labels(noise):
    return INPUT.T @ (DESIGN @ WEIGHTS) + noise


def noises():
    """Noises (14, 7) whose mean is 0 and whose covariance is SPREAD times the identity, exactly."""
    axes = math.sqrt(7 * SPREAD) * np.eye(7)
    return np.concatenate([axes, -axes])


def ridge_fit(targets, ridge):
    return np.linalg.solve(INPUT @ INPUT.T + ridge * np.eye(4), INPUT @ targets)


@pytest.mark.parametrize("ridge", [0.4, 2.5])
@pytest.mark.parametrize("xi", [-0.6, 0.0, 1.9])
def test_label_noise_sds_parameter_error_is_the_mean_over_noises(xi, ridge):
    def error(noise):
        teacher = ridge_fit(labels(noise), ridge)
        student = ridge_fit(xi * INPUT.T @ teacher + (1 - xi) * labels(noise), ridge)
        return ((student - DESIGN @ WEIGHTS) ** 2).sum()

    wanted = np.mean([error(noise) for noise in noises()])
    assert parameter_error(xi, VALUES, WEIGHTS, SPREAD, ridge) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("ridge", [0.4, 2.5])
@pytest.mark.parametrize("noise", [0.05, 0.3, 40.0])
def test_label_noise_sds_best_factor_is_the_vertex_of_its_parabola(ridge, noise):
    low, middle, high = (parameter_error(xi, VALUES, WEIGHTS, noise, ridge) for xi in (-1.0, 0.0, 1.0))
    vertex = (low - high) / (2 * (low - 2 * middle + high))
    assert best_imitation(VALUES, WEIGHTS, noise, ridge) == pytest.approx(vertex, rel=1e-8)


# -- repeated_sd: rounds, risks and the weights of their powers ------------------------------------
def rounds_of(A, targets, factors, ridge, kernel="linear", gamma=None):
    fit = kernel_ridge(A, targets, ridge, kernel, gamma)
    for xi in factors:
        fit = kernel_ridge(A, xi * fit(A) + (1 - xi) * targets, ridge, kernel, gamma)
    return fit


def weights_of(factors):
    """``xi_bar_i = (1 - xi_{k-i}) xi_{k-i+1} … xi_k``, ``xi_0 = 0``."""
    xi, k = [0.0, *factors], len(factors)
    return [(1 - xi[k - i]) * math.prod(xi[k - i + 1 :]) for i in range(1, k + 1)]


def held_out(A, targets, B, ridge, rounds):
    """Predictions at ``B`` of the first fit, and of fits taught 1 … rounds times by the one before alone."""
    return [rounds_of(A, targets, [1.0] * i, ridge)(B) for i in range(rounds + 1)]


def test_repeated_sd_takes_its_rounds_one_by_one():
    model = RepeatedDistiller(ridge=0.8, repeats=3, mixing=[0.4, -1.3, 2.1]).fit(X, Y)
    np.testing.assert_allclose(model.predict(NEW), rounds_of(X, Y, [0.4, -1.3, 2.1], 0.8)(NEW), atol=1e-9)
    np.testing.assert_allclose(model.tails_, weights_of([0.4, -1.3, 2.1]), atol=1e-12)
    np.testing.assert_allclose(model.factors_, [0.4, -1.3, 2.1], atol=1e-9)
    plain = RepeatedDistiller(ridge=0.8, repeats=0).fit(X, Y)
    np.testing.assert_allclose(plain.predict(NEW), kernel_ridge(X, Y, 0.8)(NEW), atol=1e-9)
    assert plain.factors_.shape == plain.tails_.shape == (0,)
    none = RepeatedDistiller(ridge=0.8, repeats=2, mixing=[0.5, 0.0]).fit(X, Y)
    assert none.factors_ is None and not none.tails_.any()  # its last round forgets the others


@pytest.mark.parametrize("mixing", ["validation", 0.6])
def test_repeated_sd_chooses_weights_and_a_ridge_on_held_out_rows(mixing):
    ridges, rounds, parts = (0.3, 8.0, 60.0), 2, splits(len(X), 5, 3)

    def judged(ridge):
        kept = [held_out(X[i], LOUD[i], X[o], ridge, rounds) for i, o in parts]
        plain, *powers = (np.concatenate([k[n] for k in kept]) for n in range(rounds + 1))
        y = np.concatenate([LOUD[o] for _, o in parts])
        columns = np.stack([(p - plain).ravel() for p in powers], 1)
        if mixing == "validation":
            weights = np.linalg.lstsq(columns, (y - plain).ravel(), rcond=None)[0]
        else:
            weights = np.array(weights_of([mixing] * rounds))
        return float((((y - plain).ravel() - columns @ weights) ** 2).mean()), weights

    best = min(ridges, key=lambda ridge: judged(ridge)[0])
    model = RepeatedDistiller(ridge=ridges, repeats=rounds, mixing=mixing, random_state=3).fit(X, LOUD)
    weights = judged(best)[1]
    assert model.ridge_ == best
    np.testing.assert_allclose(model.tails_, weights, rtol=1e-6)
    plain, *powers = held_out(X, LOUD, NEW, best, rounds)
    wanted = plain + sum(w * (p - plain) for w, p in zip(weights, powers, strict=True))
    np.testing.assert_allclose(model.predict(NEW), wanted, atol=1e-8)


def test_repeated_sd_with_any_regressor_takes_the_same_rounds():
    given = RepeatedDistiller(Ridge(alpha=3.0), repeats=2, mixing=[0.4, 1.6]).fit(X, Y)
    np.testing.assert_allclose(given.predict(NEW), rounds_of(X, Y, [0.4, 1.6], 3.0)(NEW), atol=1e-9)
    found = RepeatedDistiller(Ridge(alpha=3.0), repeats=2).fit(X, Y, validation=(NEW, TRUE))
    share = best_share([(X, Y, NEW, TRUE)], [], 3.0, "linear", None)
    assert found.factors_.shape == (2,) and found.factors_[0] == pytest.approx(1 - share, rel=1e-7)


def smoother(A, ridge):
    centred = A - A.mean(0)
    K = centred @ centred.T
    return K @ np.linalg.inv(K + ridge * np.eye(len(A)))


def filtered(M, weights):
    """What ``rounds`` weights make of the first fit's predictions: ``(1 - sum w) I + sum w_i M^i``."""
    eye = np.eye(len(M))
    powers = sum(w * np.linalg.matrix_power(M, i) for i, w in enumerate(weights, 1))
    return (1 - sum(weights)) * eye + powers


def stein(M, targets, noise, weights):
    """Squared error at the training points and twice the noise times the trace, for each output."""
    H = filtered(M, weights) @ M
    return ((targets - H @ targets) ** 2).sum() + 2 * noise * targets.shape[1] * np.trace(H)


@pytest.mark.parametrize(("rows", "noise"), [(30, None), (6, None), (30, 0.4)])
def test_repeated_sd_in_closed_form_has_the_least_of_steins_estimate(rows, noise):
    X, Y = table(rows)
    Y = Y / 8 if rows == 6 else Y  # one degree of freedom is left over, and little noise
    ridges, rounds, targets = (0.5, 5.0, 50.0), 2, Y - Y.mean(0)
    if noise is None:  # what least squares leaves over, for each degree of freedom
        left = targets - kernel_ridge(X, Y, 1e-10)(X) + Y.mean(0)
        level = (left**2).sum() / ((len(X) - X.shape[1] - 1) * Y.shape[1])
    else:
        level = noise

    def judged(ridge):
        M = smoother(X, ridge)
        # the estimate is a parabola in the weights: its gradient, and so its minimum, from a few values
        zero, unit = np.zeros(rounds), np.eye(rounds)
        value = lambda w: stein(M, targets, level, w)  # noqa: E731
        bend = np.array([[value(a + b) - value(a) - value(b) + value(zero) for a in unit] for b in unit])
        slope = np.array([(value(a) - value(-a)) / 2 for a in unit])
        weights = np.linalg.solve(bend, -slope)
        return value(weights), weights

    best = min(ridges, key=lambda ridge: judged(ridge)[0])
    model = RepeatedDistiller(ridge=ridges, repeats=rounds, mixing="closed", noise_variance=noise).fit(X, Y)
    assert model.ridge_ == best
    np.testing.assert_allclose(model.tails_, judged(best)[1], rtol=1e-5)


def test_repeated_sd_estimates_the_noise_from_ridge_where_least_squares_leaves_nothing():
    A, targets = table(n=4, d=9, seed=6)
    M, centred = smoother(A, 2.0), targets - targets.mean(0)
    missed = np.eye(4) - M - np.ones((4, 4)) / 4  # the mean is free
    level = ((missed @ centred) ** 2).sum() / (targets.shape[1] * np.trace(missed))
    given = RepeatedDistiller(ridge=2.0, repeats=1, mixing="closed", noise_variance=level).fit(A, targets)
    found = RepeatedDistiller(ridge=2.0, repeats=1, mixing="closed").fit(A, targets)
    assert abs(given.tails_[0]) > 1e-3
    np.testing.assert_allclose(found.tails_, given.tails_, rtol=1e-8)


def test_repeated_sds_estimate_is_steins():
    M, centred, weights = smoother(X, 3.0), Y - Y.mean(0), np.array([0.7, -0.4])
    values, vectors = np.linalg.eigh((X - X.mean(0)) @ (X - X.mean(0)).T)
    kept = values > 1e-9
    a, c = values[kept] / (values[kept] + 3.0), vectors[:, kept].T @ centred
    outside = (centred**2).sum() - (c**2).sum()  # what no fit reaches
    wanted = stein(M, centred, 0.4, weights) - outside
    assert estimated_risk(a, c, 0.4, weights) == pytest.approx(wanted, rel=1e-9)
    best = least_risk(a, c, 0.4, 2)
    for step in np.concatenate([np.eye(2), -np.eye(2)]):
        assert stein(M, centred, 0.4, best + 1e-3 * step) > stein(M, centred, 0.4, best)
    assert least_risk(a, c, 0.4, 0).shape == (0,)


@pytest.mark.parametrize(("ridge", "weights"), [(0.4, [0.9, -0.5]), (2.5, [1.7])])
def test_repeated_sds_true_risk_is_the_mean_over_noises(ridge, weights):
    def risk(noise):
        M = INPUT.T @ np.linalg.solve(INPUT @ INPUT.T + ridge * np.eye(4), INPUT)
        pred = filtered(M, weights) @ M @ labels(noise)
        return ((pred - labels(0)) ** 2).sum()

    wanted = np.mean([risk(noise) for noise in noises()])
    found = true_risk(VALUES, WEIGHTS, SPREAD, ridge, np.array(weights))
    assert found == pytest.approx(wanted, rel=1e-10)
    assert true_risk(VALUES, WEIGHTS, SPREAD, ridge, np.array(weights), n=7) == pytest.approx(wanted / 7)


@pytest.mark.parametrize(("ridge", "rounds"), [(0.4, 1), (2.5, 2)])
def test_repeated_sds_best_weights_have_the_least_true_risk(ridge, rounds):
    """The risk is a parabola in the weights; its minimum is where all of its slopes vanish."""
    best = best_for(VALUES, WEIGHTS, SPREAD, ridge, rounds)
    for axis in np.eye(rounds):
        up, down = (true_risk(VALUES, WEIGHTS, SPREAD, ridge, best + s * axis) for s in (1.0, -1.0))
        assert up - down == pytest.approx(0, abs=1e-9 * (up + down))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GroundTruthDistiller(steps=math.inf, alpha=1.5).fit(X, Y), r"one alpha in \(0, 1\]"),
        (lambda: GroundTruthDistiller(steps=math.inf).fit(X, Y), r"one alpha in \(0, 1\]"),
        (lambda: GroundTruthDistiller(steps=0).fit(X, Y), "whole number of 1 or more"),
        (lambda: GroundTruthDistiller(steps=2.5).fit(X, Y), "whole number of 1 or more"),
        (lambda: GroundTruthDistiller(alpha="best").fit(X, Y), "not 'best'"),
        (lambda: GroundTruthClassifier(Table(), steps=0).fit(INPUTS, LABELS), "whole number of 1 or more"),
        (lambda: GroundTruthClassifier(Table(), steps=1.5).fit(INPUTS, LABELS), "whole number of 1 or more"),
        (lambda: GroundTruthClassifier(Table(), alpha="best").fit(INPUTS, LABELS), "not 'best'"),
        (lambda: GroundTruthClassifier(Table(), alpha="validation").fit(INPUTS, LABELS), "give rows for it"),
        (lambda: NoisyLabelDistiller(Table(), xi=[1.0]).fit(INPUTS, LABELS), "one finite number"),
        (lambda: NoisyLabelDistiller(Table(), xi=math.inf).fit(INPUTS, LABELS), "one finite number"),
        (lambda: NoisyLabelDistiller(Table(), xi="best").fit(INPUTS, LABELS), "not 'best'"),
        (
            lambda: NoisyLabelDistiller(Table(), xi="validation", sweep=()).fit(
                INPUTS, LABELS, validation=(INPUTS, LABELS)
            ),
            "sweep over xi is empty",
        ),
        (lambda: RepeatedDistiller(repeats=1.5).fit(X, Y), "whole number of 0 or more"),
        (lambda: RepeatedDistiller(mixing="closed", noise_variance=-1.0).fit(X, Y), "0 or more, not -1"),
    ],
)
def test_settings_that_are_refused(make, words):
    with pytest.raises(StillhouseError, match=words):
        make()


def test_settings_at_the_edge_are_taken():
    all_labels = GroundTruthDistiller(steps=math.inf, alpha=1.0, ridge=2.0, kernel="linear").fit(X, Y)
    np.testing.assert_allclose(all_labels.predict(NEW), kernel_ridge(X, Y, 2.0)(NEW), atol=1e-9)
    exact = RepeatedDistiller(mixing="closed", noise_variance=0.0, ridge=2.0, repeats=1).fit(X, Y)
    assert exact.tails_[0] < 0  # without noise the labels are to be met more closely than ridge does
