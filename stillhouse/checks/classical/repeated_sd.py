"""repeated_sd: two rounds with free mixing numbers beat the best ridge and the best single round where the
truth lies on one direction."""

from __future__ import annotations

import numpy as np
from sklearn.tree import DecisionTreeRegressor

from stillhouse.checks.base import Claim, Contract, at_most
from stillhouse.classical.mixing import factors, tails
from stillhouse.core.draws import seed_of
from stillhouse.systems.classical.repeated_sd import RepeatedDistiller, best_for, true_risk

WORLD = "tables"
ABLATIONS = {
    "spread": "The truth lies evenly on all directions: ridge is the oracle already.",
    "clipped": "The mixing numbers are confined to [0, 1].",
}
CONTRACT = Contract(
    world={"name": "tables"},
    estimators=(
        RepeatedDistiller(),
        RepeatedDistiller(mixing="closed", ridge=[0.1, 1.0, 10.0]),
        RepeatedDistiller(DecisionTreeRegressor(max_depth=3, random_state=0), mixing=0.7),
    ),
)
RIDGES = np.geomspace(1e-3, 1e4, 141)


def best_risk(
    s: np.ndarray, t: np.ndarray, noise: float, rounds: int, clipped: bool
) -> tuple[float, float, np.ndarray]:
    """The least true risk over ridges, with the ridge and the weights it takes."""
    found = []
    for ridge in RIDGES:
        weights = best_for(s, t, noise, ridge, rounds) if rounds else np.zeros(0)
        if clipped and rounds:
            weights = tails(np.clip(factors(weights), 0, 1).tolist())
        found.append((true_risk(s, t, noise, ridge, weights), ridge, weights))
    return min(found, key=lambda f: f[0])


def check(seed: int, ablation: str = "") -> list[Claim]:
    """Four directions of strengths 4, 3, 2, 1: exact risks, and those that fits to drawn labels have."""
    s = np.array([4.0, 3.0, 2.0, 1.0])
    t = np.full(4, 0.5) if ablation == "spread" else np.array([1.0, 0.0, 0.0, 0.0])
    noise = s[0] / 100
    risks = [best_risk(s, t, noise, k, ablation == "clipped") for k in range(3)]
    rng = np.random.default_rng(seed_of("repeated_sd", seed))
    X = np.linalg.qr(rng.standard_normal((40, 4)))[0] * np.sqrt(s)
    realised = []
    for k, (_, ridge, weights) in enumerate(risks):
        model = RepeatedDistiller(
            ridge=ridge, repeats=k, mixing=factors(weights) if k else 0.0, fit_intercept=False
        )
        draws = np.random.default_rng(seed_of("repeated_sd labels", seed))
        wrong = [
            model.fit(X, X @ t + noise**0.5 * draws.standard_normal(len(X))).predict(X) - X @ t
            for _ in range(200)
        ]
        realised.append(float(np.mean(np.sum(np.square(wrong), 1))))
    return [
        at_most("risk of two rounds / of the best ridge", risks[2][0] / risks[0][0], 0.40),
        at_most("risk of two rounds / of the best single round", risks[2][0] / risks[1][0], 0.75),
        at_most("the same of fits to drawn labels, to the best ridge", realised[2] / realised[0], 0.40),
        at_most("the same of fits to drawn labels, to one round", realised[2] / realised[1], 0.75),
    ]
