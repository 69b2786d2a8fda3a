"""Guidance by two conditions with a scale each: text or label, and sound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition, drop_condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided, in_place_of
from stillhouse.core.prediction import Prediction


def without_audio(cond: dict[str, Tensor]) -> dict[str, Tensor]:
    """``cond`` without its sound: ``features`` of zeros, which stand for none."""
    return {**cond, "features": torch.zeros_like(cond["features"])}


def null_condition(cond: dict[str, Tensor]) -> Condition:
    """``cond`` with every part of it empty."""
    features = cond["features"]
    return drop_condition(
        without_audio(cond), torch.ones(len(features), dtype=torch.bool, device=features.device)
    )


class TwoGuided(Guided):
    """``D(none) + w (D(text) - D(none)) + w_s (D(text, sound) - D(text))`` (Chern et al., 2025, arXiv
    2512.23576).

    ``scale``: ``w``, of the text or label; ``sound``: ``w_s``, of the sound, ``cond["features"]``; 1 for both
    is no guidance. A call costs three evaluations, two where the scales are equal, and two under a condition
    without features, which plain guidance takes care of; so it does where the network takes the scale as an
    input, one for both. Raises :class:`StillhouseError` for two scales of such a network.
    """

    def __init__(self, denoiser: Denoiser, scale: float, sound: float):
        super().__init__(denoiser, scale)
        self.sound = sound
        require(
            not self.as_input or scale == sound,
            "The network takes one guidance scale as an input, of the whole condition; give sound and text "
            "the "
            f"same scale, not {sound:g} and {scale:g}.",
        )

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        if self.as_input or not isinstance(cond, dict) or "features" not in cond:
            return super().forward(x_t, t, cond, **extra)
        pred = self.plain(x_t, t, cond, **extra)
        if self.scale == self.sound == 1:
            return pred
        empty = self.plain(x_t, t, self.away_from(cond), **extra).x0
        if self.scale == self.sound:
            return pred.with_x0(empty + self.scale * (pred.x0 - empty))
        text = self.plain(x_t, t, without_audio(cond), **extra).x0
        return pred.with_x0(empty + self.scale * (text - empty) + self.sound * (pred.x0 - text))

    def away_from(self, cond: dict[str, Tensor]) -> Condition:
        """The condition of the call without text and sound: the negative one in the text's place, if there is
        any."""
        if self.negative is None:
            return null_condition(cond)
        return in_place_of(without_audio(cond), self.negative)
