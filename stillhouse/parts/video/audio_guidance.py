"""Guidance by two conditions, of which one may pull harder than the other: what a clip shows, and what it is
said to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, hide
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.guidance import Guided
from stillhouse.core.prediction import Prediction


def deaf(cond: dict[str, Tensor]) -> dict[str, Tensor]:
    """``cond`` without its sound: ``features`` of zeros, which stand for none."""
    return {**cond, "features": torch.zeros_like(cond["features"])}


def nothing(cond: dict[str, Tensor]) -> Condition:
    """``cond`` with every part of it empty."""
    features = cond["features"]
    return hide(deaf(cond), torch.zeros(len(features), dtype=torch.bool, device=features.device))


class TwoGuided(Guided):
    """``D(none) + w (D(text) - D(none)) + w_s (D(text, sound) - D(text))`` (Chern et al., 2025, arXiv
    2512.23576).

    ``scale``: ``w``, of the text or label; ``sound``: ``w_s``, of what ``cond["features"]`` says; 1 for both
    is no guidance. A call costs three evaluations, two where the scales are equal, and two under a condition
    without features, which plain guidance takes care of.
    """

    def __init__(self, denoiser: Denoiser, scale: float, sound: float):
        super().__init__(denoiser, scale)
        self.sound = sound

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        if not isinstance(cond, dict) or "features" not in cond:
            return super().forward(x_t, t, cond, **extra)
        said = self.plain(x_t, t, cond, **extra)
        if self.scale == self.sound == 1:
            return said
        empty = self.plain(x_t, t, nothing(cond), **extra).x0
        if self.scale == self.sound:
            return said.with_x0(empty + self.scale * (said.x0 - empty))
        text = self.plain(x_t, t, deaf(cond), **extra).x0
        return said.with_x0(empty + self.scale * (text - empty) + self.sound * (said.x0 - text))
