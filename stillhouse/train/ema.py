"""Averages of a learning network's weights: fixed decay, half-life with ramp-up, power function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillhouse.train.recipe import Recipe

Decay = float | Callable[[int], float]


def decay_at(recipe: Recipe, step: int) -> float:
    """Decay of the averaged student after an iteration.

    ``ema_power = p`` gives ``(1 - 1/k)^(p + 1)``, an average weighted by ``k^p`` (Karras et al., 2023, arXiv
    2312.02696, eq. 123); ``ema_half_life = H`` samples gives ``2^(-batch / min(H, ramp * samples seen))``
    (EDM's training loop); otherwise ``ema``, ramped.

    Arguments:
        recipe: its ``ema…`` options and batch.
        step: number of the iteration, from 0.

    Returns:
        The decay, in [0, 1).
    """
    if recipe.ema_power > 0:
        return float((1 - 1 / (step + 1)) ** (recipe.ema_power + 1))
    if recipe.ema_half_life > 0:
        seen = (step + 1) * recipe.batch
        half_life = (
            min(recipe.ema_half_life, recipe.ema_ramp * seen) if recipe.ema_ramp > 0 else recipe.ema_half_life
        )
        return float(0.5 ** (recipe.batch / max(half_life, 1e-8)))
    return ramped(recipe.ema, step)


def ramped(decay: float, step: int) -> float:
    """A fixed decay with the usual ramp: a young average should not remember the start.

    Arguments:
        decay: the largest, in [0, 1).
        step: number of the iteration, from 0.

    Returns:
        ``min(decay, (1 + step) / (10 + step))``.
    """
    return min(decay, (1 + step) / (10 + step))


@dataclass
class EMA:
    """A slow copy that follows its source: ``copy <- decay copy + (1 - decay) source`` after each of its
    steps."""

    module: nn.Module
    source: nn.Module
    decay: Decay

    def follow(self, step: int) -> None:
        decay = self.decay(step) if callable(self.decay) else self.decay
        with torch.no_grad():
            torch._foreach_lerp_(*self._floating, 1 - decay)
            for mine, its in self._others:
                mine.copy_(its)

    @functools.cached_property
    def _floating(self) -> tuple[list[Tensor], list[Tensor]]:
        # not the state's entries: weights that two layers share stand twice there, and would be averaged
        # twice
        mine, its = (
            [v for v in (*m.parameters(), *m.buffers()) if v.is_floating_point()]
            for m in (self.module, self.source)
        )
        return mine, its

    @functools.cached_property
    def _others(self) -> list[tuple[Tensor, Tensor]]:
        """Counters and the like: tensors that are not averaged but copied."""
        pairs = zip(self.module.state_dict().values(), self.source.state_dict().values(), strict=True)
        return [(mine, its) for mine, its in pairs if not mine.is_floating_point()]
