"""Averages of a learning network's weights: fixed decay, half-life with ramp-up, power function."""

from __future__ import annotations

from stillhouse.train.recipe import Recipe


def decay_at(recipe: Recipe, step: int) -> float:
    """Decay of the averaged student after iteration ``step`` (counted from 0).

    ``ema_power = p`` gives ``(1 - 1/k)^(p + 1)``, an average weighted by ``k^p`` (Karras et al., 2023, arXiv
    2312.02696, eq. 123); ``ema_half_life = H`` samples gives ``2^(-batch / min(H, ramp * samples seen))``
    (EDM's training loop); otherwise ``ema``.
    """
    if recipe.ema_power > 0:
        return (1 - 1 / (step + 1)) ** (recipe.ema_power + 1)
    if recipe.ema_half_life > 0:
        seen = (step + 1) * recipe.batch
        half_life = (
            min(recipe.ema_half_life, recipe.ema_ramp * seen) if recipe.ema_ramp > 0 else recipe.ema_half_life
        )
        return 0.5 ** (recipe.batch / max(half_life, 1e-8))
    return ramped(recipe.ema, step)


def ramped(decay: float, step: int) -> float:
    """A fixed decay with the usual ramp: a young average should not remember the start."""
    return min(decay, (1 + step) / (10 + step))
