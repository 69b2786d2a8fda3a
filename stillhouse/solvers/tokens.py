"""How a walk through tokens takes a step: by the reverse law, by confidence, or there and back.

What is visible in a masked text never changes (but under :class:`Psi`), so that a text with gaps to start
from is filled in. Every step evaluates the network anew, although a masked one that ignores time would repeat
itself where the last step unmasked nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.discrete import Masked, at_token, choose, of_masks, of_tokens
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.token_prediction import TokenPrediction, of_words
from stillhouse.solvers.base import History, Predict, Solver


def _numbers(draws: Draws | None, x: Tensor, *more: int) -> Tensor:
    """Uniform numbers in [0, 1), (B, L, *more) float64, for the tokens ``x``."""
    if draws is None:
        raise RuntimeError("this walk draws tokens but was given no draws")
    return draws.uniform(0.0, 1.0, *x.shape[1:], *more, dtype=torch.float64)


@dataclass
class Ancestral(Solver):
    """``x_s ~ q(x_s | x_t, D)`` for all positions at once (Sahoo et al., 2024, arXiv 2406.07524; Schiff et
    al., 2024, arXiv 2412.10193).

    The "analytic" (Tweedie) sampler of score-entropy models (Lou et al., 2023, arXiv 2310.16834, eq. 19) has
    this very law wherever the ratios come from normalised predictions, as ours do. Masks that are left when a
    grid ends above 0 become their likeliest token.
    """

    name = "ancestral"
    stochastic = True

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        pred = of_words(predict(x, t, s))
        x_s = choose(self.law(pred, t, s), _numbers(draws, x))
        process = of_tokens(pred.at.process)
        if history.left == 0 and isinstance(process, Masked):
            return torch.where(x_s == process.mask, pred.x0, x_s)
        return x_s

    def law(self, pred: TokenPrediction, t: Tensor, s: Tensor) -> Tensor:
        """The distribution that a step draws the state at ``s`` from.

        Arguments:
            pred: the prediction at the state ``x_t``, (B, L).
            t: times in (0, 1], (B,).
            s: earlier times in [0, t], (B,).

        Returns:
            ``log q(x_s | x_t)``, (B, L, states) float64.
        """
        return of_tokens(pred.at.process).posterior(pred.log_probs, pred.at.x, t, s)


@dataclass
class Psi(Ancestral):
    """Predictor and corrector in one: a share ``kappa`` of the reverse step, and of a clean guess noised
    afresh to ``s`` the rest.

    ``kappa q(x_s | x_t, D) + (1 - kappa) q(x_s | x_0 ~ p(x_0 | x_t))``: both have the right marginals, the
    second drops mistakes. With masks it hides what was visible, a prompt too. ``kappa = 1`` is
    :class:`Ancestral`. (Wang et al., 2025, arXiv 2503.00307, for masks; Sahoo et al., 2025, arXiv 2506.10892,
    and its sequel, for uniform tokens.)
    """

    kappa: float = 0.9
    name = "psi"

    def __post_init__(self) -> None:
        require(
            0 <= self.kappa <= 1, f"The share kappa of the reverse step must lie in [0, 1], not {self.kappa}."
        )

    def law(self, pred: TokenPrediction, t: Tensor, s: Tensor) -> Tensor:
        process, back = of_tokens(pred.at.process), super().law(pred, t, s)
        if self.kappa == 1:
            return back
        anew = process.renoised(process.including(pred.log_probs, pred.at.x, t), s) + math.log(1 - self.kappa)
        return torch.logaddexp(back + math.log(self.kappa), anew) if self.kappa else anew


@dataclass
class Confidence(Solver):
    """Unmask first what is surest: as many positions as the schedule gives, those whose drawn token is the
    most probable.

    Chang et al., 2022 (arXiv 2202.04200, section 3.2). Of ``m`` masks at ``t``, ``m sigma_s / sigma_t`` are
    left at ``s``. ``temperature`` times ``t`` is the size of the Gumbel noise on the logarithms of the
    probabilities, 0 for none: a greedy order repeats itself and makes texts alike. It does not follow the
    reverse law: samples are likelier and less varied than the model's own.
    """

    temperature: float = 1.0
    name = "confidence"
    stochastic = True

    def __post_init__(self) -> None:
        require(
            0 <= self.temperature < math.inf,
            f"The temperature of the order can't be {self.temperature}; give 0 or more.",
        )

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        pred, u = of_words(predict(x, t, s)), _numbers(draws, x, 2)
        process = of_masks(pred.at.process)
        guess, hidden = choose(pred.log_probs, u[..., 0]), x == process.mask
        gumbel = -(-u[..., 1].clamp_min(torch.finfo(u.dtype).tiny).log()).log()
        sure = at_token(pred.log_probs, guess).double() + self.temperature * t.double()[:, None] * gumbel
        share = process.sigma(s.double()) / process.sigma(t.double())
        left = torch.ceil(hidden.sum(1) * share - 1e-9) * (history.left > 0)
        rank = sure.masked_fill(~hidden, math.inf).argsort(1).argsort(1)  # 0 for the least sure
        return torch.where(hidden & (rank >= left[:, None]), guess, x)
