"""The contract that every estimator keeps: scikit-learn's own, for each of the contract's settings."""

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from stillhouse.checks.runner import load_check
from stillhouse.systems.registry import class_of, get_system


def check_scikit_learns_own_contract(slug, runs, tmp_path):
    for estimator in load_check(slug).CONTRACT.estimators:
        for instance, check in estimator_checks_generator(estimator):
            check(instance)


def check_its_record_is_true(slug, runs, tmp_path):
    kind, row = class_of(slug), get_system(slug)
    assert (row.kind, row.needs, row.worlds) == (kind.kind, kind.needs, kind.worlds) and "labels" in row.needs
    estimators = load_check(slug).CONTRACT.estimators
    assert any(isinstance(e, kind) for e in estimators)
    assert all(isinstance(e, BaseEstimator) for e in estimators)


def check_it_repeats_itself_and_draws_nothing_from_the_global_state(slug, runs, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4))
    y = (X[:, 0] + 0.3 * rng.standard_normal(60) > 0).astype(int)
    before = np.random.get_state()[1].copy()
    for estimator in load_check(slug).CONTRACT.estimators:
        first, second = (clone(estimator).fit(X, y).predict(X) for _ in range(2))
        np.testing.assert_array_equal(first, second)
    assert (np.random.get_state()[1] == before).all()


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]
