"""Rewards: what a sample is worth under its condition, ``r(x0, cond) -> (B,)``, differentiable in ``x0``;
found by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.errors import require, required, unknown
from stillhouse.io.named import PerSample, named_object

Reward = Callable[[Tensor, Condition], Tensor]


def captions(x0: Tensor, cond: Condition) -> Tensor:
    """``log p(caption | x0)`` by the caption reader of the world ``shapes``.

    Arguments:
        x0: pictures, (B, 3, 32, 32).
        cond: their encoded captions; raises :class:`StillhouseError` for any other condition.

    Returns:
        Log-probabilities, (B,), differentiable in ``x0``.
    """
    from stillhouse.metrics.reader import load_reader

    encoded = cond.get("tokens") if isinstance(cond, dict) else None
    tokens = required(
        encoded, "The reward 'captions' reads the captions of the world 'shapes'; give it such data."
    ).flatten(1)
    known = _caption_tokens().to(tokens)
    require(
        tokens.shape[1] == known.shape[1],
        "The reward 'captions' is for the captions of the world 'shapes' alone.",
    )
    return load_reader().to(x0.device).log_prob(x0, torch.cdist(tokens, known).argmin(1))


@cache
def _caption_tokens() -> Tensor:
    """What each caption's tokens are, one row each."""
    from stillhouse.metrics.captions import CAPTIONS, LONGEST, VOCABULARY
    from stillhouse.models.words import Words

    return Words(VOCABULARY, LONGEST).encode(CAPTIONS)["tokens"].flatten(1)


REWARDS: dict[str, Reward] = {"captions": captions}


def find_reward(name: str) -> Reward:
    """The reward of that name, or a function ``r(x0, cond) -> (B,)`` of one's own as ``module:function`` or
    ``./file.py:function``.

    It is given what the teacher makes: latents of a latent teacher, which it decodes itself. Raises
    :class:`StillhouseError` where there is none, and, when it is called, where it fails or gives anything but
    one number a sample.
    """
    if ":" not in name:
        if name not in REWARDS:
            raise unknown("reward", name, REWARDS)
        return REWARDS[name]
    found = named_object(name, "reward")
    require(callable(found), f"'{name}' is no function, and can't be a reward.")
    return PerSample(found, f"The reward '{name}'")


def shortfall(worth: Tensor, margin: float) -> Tensor:
    """``mean relu(margin - r)``: samples that are good enough give no gradient (Ren et al., 2024, arXiv
    2404.13686, section 3.2).

    Arguments:
        worth: rewards, (B,).
        margin: the reward from which a sample is good enough.

    Returns:
        A scalar.
    """
    return torch.relu(margin - worth).mean()
