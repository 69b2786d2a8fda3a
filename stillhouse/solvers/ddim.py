"""DDIM, the first-order step of every process; with ``eta = 1`` it is DDPM's ancestral sampler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.flowmap import ddim_step
from stillhouse.core.prediction import Prediction
from stillhouse.core.process import expand_to
from stillhouse.solvers.base import History, Predict, Solver, fresh
from stillhouse.solvers.coordinate import gap, noisy_ddim_step


@dataclass
class DDIM(Solver):
    """Follow the predicted line: ``x_s = alpha_s x0 + sigma_s eps`` (Song et al., 2020, arXiv 2010.02502).

    It is Euler's method in ``sigma / alpha``, and in the velocity of a flow. ``eta`` in [0, 1]: the share of
    fresh noise, 1 being ancestral sampling with the posterior's own ("small") variance; ``large`` keeps its
    mean and adds DDPM's other choice of noise, ``sigma_t sqrt(1 - e^-2h)`` (Ho et al., 2020, arXiv
    2006.11239, section 3.2).
    """

    eta: float = 0.0
    large: bool = False
    name = "ddim"

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, f"DDIM's eta must lie in [0, 1], not {self.eta}.")
        self.stochastic = self.eta > 0

    def transition(self, pred: Prediction, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the Gaussian step from the state of ``pred`` to time ``s``.

        Arguments:
            pred: a prediction at B states.
            s: where to, in [0, 1], (B,).

        Returns:
            Mean (B, …) and standard deviation (B,).
        """
        process, t = pred.at.process, pred.at.t
        if not self.eta:
            return ddim_step(pred, s), torch.zeros_like(process.sigma(s))
        fresh = (-torch.expm1(-2 * gap(process, t, s))).sqrt()
        std = self.eta * process.sigma(s) * fresh
        return noisy_ddim_step(pred, s, std), self.eta * process.sigma(t) * fresh if self.large else std

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        mean, std = self.transition(predict(x, t, s), s)
        return mean + expand_to(std, x) * fresh(draws, x) if self.eta else mean
