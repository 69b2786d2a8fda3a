"""The stochastic step of a bridge, and of the students that jump along it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stillhouse.core.bridge import Bridge
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, required_type
from stillhouse.core.process import expand_to
from stillhouse.solvers.base import History, Predict, Solver, fresh


@dataclass
class Posterior(Solver):
    """Draw the state at ``s`` from the Brownian path between the clean estimate and the state:
    :meth:`Bridge.posterior`.

    ``noise``: standard deviation of what is added to the state that the network is shown, and to nothing
    else: the ``z`` of a generator ``G(x_t, z)``, which a pinned bridge needs at ``t = 1``, where its state
    holds no noise. The step to ``t = 0`` is the clean estimate itself.
    """

    noise: float = 0.0
    name = "bridge"
    stochastic = True

    def __post_init__(self) -> None:
        require(
            self.noise >= 0, f"The noise that a bridge's generator is shown is 0 or more, not {self.noise}."
        )

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        clean = predict(x + self.noise * fresh(draws, x) if self.noise else x, t, s)
        if bool((s == 0).all()):
            return clean.x0
        bridge = required_type(
            clean.at.process,
            Bridge,
            f"The solver 'bridge' walks a bridge, not the process '{clean.at.process.name}'.",
        )
        mean, std = bridge.posterior(clean.x0, x, t, s)
        return mean + expand_to(std, x) * fresh(draws, x)
