"""UniPC, a predictor and a corrector on one evaluation a step (Zhao et al., 2023, arXiv 2302.04867)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, unknown
from stillhouse.core.flowmap import ddim_step
from stillhouse.core.prediction import X0, At, Prediction
from stillhouse.core.process import expand_to
from stillhouse.solvers.base import History, Predict, Solver
from stillhouse.solvers.coordinate import gap

VARIANTS = ("bh1", "bh2")


@dataclass
class UniPC(Solver):
    """UniPC of order 1 or 2 in data prediction.

    The corrector of a step waits for the evaluation that the next step makes anyway, so it costs none; the
    last state is left as predicted. ``variant``: the paper's ``B(h)``, *bh1* = ``h`` or *bh2* = ``1 - e^-h``
    (ours are the paper's with the sign turned). ``lower_order_final`` lowers the predictor to order 1 on the
    last step; steps whose ``h`` is infinite (from ``alpha = 0``, to ``sigma = 0``) are DDIM and uncorrected.
    """

    order: int = 2
    variant: str = "bh2"
    corrector: bool = True
    lower_order_final: bool = True
    name = "unipc"

    def __post_init__(self) -> None:
        require(self.order in (1, 2), f"UniPC is here of order 1 or 2, not {self.order}.")
        if self.variant not in VARIANTS:
            raise unknown("variant of UniPC", self.variant, VARIANTS)

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        pred = predict(x, t, s)
        if self.corrector and history.pred:
            # the estimate stays the one at the predicted state; only the state that it is joined to is
            # corrected
            pred = Prediction(pred.x0, X0(), At(pred.at.process, t, self._correct(history, pred)))
        history.keep(pred, 2)
        return self._predict(history, s)

    def _scale(self, h: Tensor) -> Tensor:
        return h if self.variant == "bh1" else -torch.expm1(-h)

    def _predict(self, history: History, s: Tensor) -> Tensor:
        pred, x_s = history.pred[-1], ddim_step(history.pred[-1], s)
        if self.order == 1 or len(history.pred) < 2 or (self.lower_order_final and history.left == 0):
            return x_s
        process, before = pred.at.process, history.pred[-2]
        h = gap(process, pred.at.t, s)
        share = self._scale(h) * h / (2 * gap(process, before.at.t, pred.at.t))
        share = torch.where(h.isinf(), torch.zeros_like(share), share)
        return x_s + expand_to(process.alpha(s) * share, x_s) * (pred.x0 - before.x0)

    def _correct(self, history: History, pred: Prediction) -> Tensor:
        """The state of ``pred`` corrected: the last step taken again with the prediction at its end."""
        process, last, t = pred.at.process, history.pred[-1], pred.at.t
        x_t = ddim_step(last, t)
        h = gap(process, last.at.t, t)
        scale = self._scale(h)
        new, old = torch.full_like(h, 0.5), torch.zeros_like(h)
        if self.order == 2 and len(history.pred) == 2:
            # the paper's R rho = b for two nodes, one at r < 0 and one at 1, solved by hand
            r = -gap(process, history.pred[0].at.t, last.at.t) / h
            rest = 1 + torch.expm1(-h) / h
            b1, b2 = rest / scale, (1 - 2 * rest / h) / scale
            first = (b1 - b2) / (1 - r)
            new, old = b1 - first, first / r
        for weight, node in ((new, pred), (old, history.pred[0])):
            weight = torch.where(h.isinf(), torch.zeros_like(h), process.alpha(t) * scale * weight)
            x_t = x_t + expand_to(weight, x_t) * (node.x0 - last.x0)
        return x_t
