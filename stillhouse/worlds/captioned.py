"""A world of captions: a label is a caption's number, and some captions are held out."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.errors import require
from stillhouse.models.words import Words
from stillhouse.worlds.base import World


class CaptionedWorld(World):
    """A world whose ``captions`` are made of the words of a small ``vocabulary``, at most ``longest`` each.

    ``held_out``: which captions (len(captions),) are the split ``test``, never drawn unless asked for.
    Subclasses give ``captions`` and what every world has.
    """

    text: Words

    def __init__(self, vocabulary: tuple[str, ...], longest: int, held_out: Tensor) -> None:
        self.text = Words(vocabulary, longest)
        # the empty caption comes last, where label -1 finds it
        self._encoded = self.text.encode([*self.captions, ""])
        self._ids = {"train": (~held_out).nonzero()[:, 0], "test": held_out.nonzero()[:, 0]}

    def caption_ids(self, split: str = "train") -> Tensor:
        """The numbers of the captions of a split (``train`` or ``test``), int64."""
        require(split in self._ids, f"A world has the splits 'train' and 'test', not '{split}'.")
        return self._ids[split]

    def condition(self, labels: Tensor | None) -> Condition:
        """``tokens`` (B, L, 48) and ``mask`` (B, L) of captions ``labels`` (B,), -1 for the empty one; L
        words at most."""
        if labels is None:
            return None
        require(
            int(labels.min()) >= -1 and int(labels.max()) < len(self.captions),
            f"Captions have the numbers 0 … {len(self.captions) - 1}.",
        )
        return {name: part[labels.cpu()].to(labels.device) for name, part in self._encoded.items()}

    @staticmethod
    def asked_or(drawn: Tensor, labels: Tensor | None) -> Tensor:
        """Captions at random, but for those that are asked for.

        Arguments:
            drawn: numbers of captions, (B,).
            labels: those asked for, (B,), -1 for any; None for any.

        Returns:
            Numbers of captions, (B,), on the CPU.
        """
        return drawn if labels is None else torch.where(labels.cpu() < 0, drawn, labels.cpu())
