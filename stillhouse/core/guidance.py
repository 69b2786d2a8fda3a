"""Guidance as a denoiser around a denoiser: it composes, and is no flag of any method.

``D^w = D(none) + w (D(c) - D(none))``; ``w = 1`` is no guidance (papers that count from 0 are translated at
the border).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, Wrapped
from stillhouse.core.errors import require
from stillhouse.core.prediction import Prediction
from stillhouse.core.token_prediction import TokenPrediction

log = logging.getLogger("stillhouse")


def given_scale(scale: float, where: str) -> float:
    """The scale that a user means: 0 is "no guidance" in Diffusers, and so it is here, said once in a line.
    (``D^0`` would be the unconditional estimate: the prompt dropped, at the price of two evaluations.)

    Arguments:
        scale: as given, 0 or more.
        where: what it is of, for the line.

    Returns:
        The scale; 1 for 0.
    """
    if scale != 0:
        return scale
    log.warning("%s: a guidance scale of 0 is read as 1, no guidance; so it is in Diffusers.", where)
    return 1.0


class Guided(Wrapped):
    """Classifier-free guidance (Ho & Salimans, 2022, arXiv 2207.12598).

    ``scale``: ``w``, a number or a tensor (B,). ``negative``: the condition to move away from, the empty one
    by default. ``interval``: times ``[low, high]`` in which guidance acts (Kynkäänniemi et al., 2024, arXiv
    2404.07724); outside, and at ``w = 1``, one evaluation is spent instead of two. ``rescale`` in [0, 1]:
    scale the standard deviation of the guided estimate back to the conditional one's (Lin et al., 2023, arXiv
    2305.08891, eq. 15-16).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | Tensor,
        negative: Condition = None,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
    ):
        require(0 <= rescale <= 1, f"Guidance rescale must lie in [0, 1], not {rescale}.")
        require(
            interval[0] <= interval[1], f"A guidance interval runs from low to high time, not {interval}."
        )
        super().__init__(denoiser)
        self.scale, self.negative, self.interval, self.rescale = scale, negative, interval, rescale

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        pred = self.plain(x_t, t, cond, **extra)
        low, high = self.interval
        inside = (t >= low) & (t <= high)
        if cond is None or (not torch.is_tensor(self.scale) and self.scale == 1) or not bool(inside.any()):
            return pred
        empty = self.plain(x_t, t, self.negative, **extra)
        w = torch.as_tensor(self.scale, dtype=pred.raw.dtype, device=x_t.device).expand(len(x_t))
        w = torch.where(inside, w, torch.ones_like(w)).reshape(-1, *[1] * (pred.raw.dim() - 1))
        # every kind is affine in x0 at a given x_t, and the weights w and 1 - w sum to one: mixing raw
        # outputs mixes all views. Mixed logits of tokens are the geometric mean of their distributions
        mixes = type(pred) in (Prediction, TokenPrediction)
        guided = pred.replace(empty.raw + w * (pred.raw - empty.raw)) if mixes else _mix(pred, empty, w)
        if self.rescale == 0:
            return guided
        dims = tuple(range(1, x_t.dim()))
        rescaled = guided.x0 * (
            pred.x0.std(dims, keepdim=True) / guided.x0.std(dims, keepdim=True).clamp_min(1e-8)
        )
        return guided.with_x0(self.rescale * rescaled + (1 - self.rescale) * guided.x0)


def _mix(pred: Prediction, empty: Prediction, w: Tensor) -> Prediction:
    return pred.with_x0(empty.x0 + w * (pred.x0 - empty.x0))


def takes_guidance(denoiser: Denoiser) -> bool:
    """Whether the network takes the guidance scale as an input, and so needs no second evaluation."""
    config = getattr(denoiser.net, "config", None)
    # ours, and the two entries by which Diffusers' networks declare it
    return isinstance(config, dict) and any(
        config.get(key) for key in ("guidance_input", "guidance_embeds", "time_cond_proj_dim")
    )
