"""label_noise_sd: with half the labels wrong an imitation number of 2 beats 1, which beats the teacher; the
formula is the minimum."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from scipy.optimize import minimize_scalar

from stillhouse.checks.base import Claim, Contract, at_least, at_most
from stillhouse.classical.soft import SoftMLP
from stillhouse.core.draws import seed_of
from stillhouse.systems.classical.label_noise_sd import NoisyLabelDistiller, best_imitation, parameter_error
from stillhouse.worlds.tables.world import Tables

WORLD = "tables"
ABLATIONS = {
    "clean": "The labels are right: there is nothing to be pushed away from.",
    "bounded": "The imitation number stays at 1, where the claim is about 2.",
}
CONTRACT = Contract(
    world={"name": "tables"},
    estimators=(
        NoisyLabelDistiller(),
        NoisyLabelDistiller(SoftMLP((16,), iterations=80, lr=0.03), xi=1.5),
    ),
)
RUNS, TRAIN = 3, 700


def check(seed: int, ablation: str = "") -> list[Claim]:
    """The formula against a numerical minimum, and test accuracy on the 8 x 8 digits, the mean of three
    splits."""
    rng = np.random.default_rng(seed_of("label_noise_sd", seed))
    s, t = np.sort(rng.gamma(2.0, 20.0, 10)), rng.standard_normal(10)
    gaps = []
    for ridge in (1.0, 10.0, 100.0):
        for noise in (0.1, 1.0, 5.0, 20.0):
            found = best_imitation(s, t, noise**2, ridge)
            error = [parameter_error(found + d, s, t, noise**2, ridge) for d in (-1.0, 0.0, 1.0)]
            vertex = (
                0.5 * (error[0] - error[2]) / (error[0] - 2 * error[1] + error[2])
            )  # of the parabola through them, from `found`
            gaps.append(abs(vertex) / max(abs(found), 1e-3))
    strong, weak = (
        minimize_scalar(lambda x, n=n: parameter_error(x, s, t, n**2, 10.0)).x for n in (20.0, 0.1)
    )

    world = Tables("digits")
    scores: dict[str, list[float]] = {"teacher": [], "one": [], "two": []}
    for run in range(RUNS):
        split = world.split(TRAIN, 0, RUNS * seed + run, noise=0.0 if ablation == "clean" else 0.5)
        for name, xi in (("one", 1.0), ("two", 1.0 if ablation == "bounded" else 2.0)):
            model = NoisyLabelDistiller(SoftMLP(random_state=run), xi=xi).fit(split.X, split.y)
            scores[name].append(float((model.predict(split.X_test) == split.y_test).mean()))
        scores["teacher"].append(float((model.teacher_.predict(split.X_test) == split.y_test).mean()))
    teacher, one, two = (fmean(scores[k]) for k in ("teacher", "one", "two"))
    return [
        at_most("relative gap of the formula to the minimum", max(gaps), 1e-6),
        at_least("best imitation number under strong noise", strong, 1.0),
        at_most("best imitation number under weak noise", weak, 0.0),
        at_least("accuracy at xi = 1 beyond the teacher's", one - teacher, 0.06),
        at_least("accuracy at xi = 2 beyond that at xi = 1", two - one, 0.02),
    ]
