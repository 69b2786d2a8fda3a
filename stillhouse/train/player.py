"""A player of a method as the loop sees it: its parameters, its optimiser, its schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.train.recipe import Optim, Recipe

OPTIMISERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
    "sgd": torch.optim.SGD,
}


def settings(name: str, method_default: Optim | None, recipe: Recipe) -> Optim:
    """A player's optimiser settings: the method's, overridden by the run's.

    Arguments:
        name: of the player, for the run's learning rates.
        method_default: the method's settings; None: those of :class:`Optim`.
        recipe: its optimiser, rates, clipping, warm-up and schedule, where they are set.

    Returns:
        The settings.
    """
    own = method_default or Optim()
    return Optim(
        lr=recipe.lr.get(name, own.lr),
        name=recipe.optimiser or own.name,
        betas=(recipe.betas[0], recipe.betas[1]) if recipe.betas else own.betas,
        eps=own.eps,
        weight_decay=recipe.weight_decay if recipe.weight_decay >= 0 else own.weight_decay,
        clip=recipe.clip if recipe.clip >= 0 else own.clip,
        warmup=recipe.warmup if recipe.warmup >= 0 else own.warmup,
        schedule=recipe.schedule or own.schedule,
    )


class Player:
    """``module`` learns under ``optim``. ``restart`` gives it a fresh optimiser (a new stage begins)."""

    def __init__(self, name: str, module: nn.Module, optim: Optim):
        self.name, self.module, self.optim = name, module, optim
        self.restart()

    def restart(self) -> None:
        self.parameters: list[Tensor] = list(
            dict.fromkeys(self.module.parameters())
        )  # a shared weight counts once
        options: dict[str, Any] = {"lr": self.optim.lr, "weight_decay": self.optim.weight_decay}
        if self.optim.name != "sgd":
            options |= {"betas": self.optim.betas, "eps": self.optim.eps}
        options |= (
            {"foreach": True} if self.optim.name == "radam" else {"fused": True}
        )  # one pass over the weights, not one a tensor
        self.optimiser = OPTIMISERS[self.optim.name](self.parameters, **options)

    def learn(self, on: bool) -> None:
        """Whether the weights ask for gradients: only those of the player whose turn it is do."""
        for p in self.parameters:
            p.requires_grad_(on)

    def schedule(self, step: int, length: int) -> float:
        """Set the learning rate of a step.

        Arguments:
            step: number of the step within its stage, from 0.
            length: of the stage, in steps.

        Returns:
            The rate.
        """
        rate = self.optim.lr * min(1.0, (step + 1) / max(1, self.optim.warmup))
        share = step / max(1, length)
        if self.optim.schedule == "linear":
            rate *= 1 - share
        elif self.optim.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * share))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def gradient_norm(self) -> Tensor:
        """L2 norm of all gradients; not finite if any is not."""
        # what torch.nn.utils.get_total_norm computes, which sorts gradients by device and type first, at
        # twice the cost: a player's are all of one
        grads = self._gradients()
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) if grads else torch.zeros(())

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients down to the clipping norm."""
        if self.optim.clip > 0 and (scale := self.optim.clip / (norm + 1e-6)) < 1:
            torch._foreach_mul_(self._gradients(), scale)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]
