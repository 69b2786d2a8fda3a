"""DPM-Solver++ (2M), one evaluation a step, as an ODE or an SDE solver (Lu et al., 2022, arXiv
2211.01095)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.process import expand_to
from stillhouse.solvers.base import History, Predict, Solver, fresh
from stillhouse.solvers.coordinate import gap, noisy_ddim_step


@dataclass
class DPMpp(Solver):
    """Multistep in the clean estimate: ``D = D0 + (D0 - D_-1) h / (2 h_-1)``, stepped exactly in log-SNR
    (algorithm 2).

    ``order`` 2, or 1, which is DDIM. ``eta``: 0 is the ODE, more adds noise of ``sigma_s sqrt(1 - e^(-2 eta
    h))`` (the 2M SDE form, midpoint kind); 1 with ``order = 1`` is ancestral sampling. ``lower_order_final``:
    the last step is of first order, without which a grid that ends at a tiny sigma can diverge. Steps from
    ``alpha = 0`` and to ``sigma = 0``, where ``h`` is infinite, always are.
    """

    order: int = 2
    eta: float = 0.0
    lower_order_final: bool = True
    name = "dpm++"

    def __post_init__(self) -> None:
        require(self.order in (1, 2), f"DPM-Solver++ is here of order 1 or 2, not {self.order}.")
        require(self.eta >= 0, f"DPM-Solver++'s eta can't be negative: {self.eta}.")
        self.stochastic = self.eta > 0

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        pred = predict(x, t, s)
        process, h = pred.at.process, gap(pred.at.process, t, s)
        # eta = 0 apart: 0 times an infinite h is not 0 in floating point
        std = process.sigma(s) * (-torch.expm1(-2 * self.eta * h)).sqrt() if self.eta else torch.zeros_like(h)
        x_s = noisy_ddim_step(pred, s, std)
        if self.order == 2 and history.pred and not (self.lower_order_final and history.left == 0):
            before = history.pred[-1]
            share = -torch.expm1(-(1 + self.eta) * h) * h / (2 * gap(process, before.at.t, t))
            share = torch.where(h.isinf(), torch.zeros_like(share), share)
            x_s = x_s + expand_to(process.alpha(s) * share, x) * (pred.x0 - before.x0)
        history.keep(pred, 1)
        return x_s + expand_to(std, x) * fresh(draws, x) if self.eta else x_s
