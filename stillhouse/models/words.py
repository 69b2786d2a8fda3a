"""A fixed text encoder for small worlds: every word a seeded vector, every place a wave. Nothing is trained,
nothing is loaded."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.draws import seed_of
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.structure import checked

log = logging.getLogger("stillhouse")

MOST = 4096  # words of a prompt, numbers of a token
DESCRIBED = {"name": str, "vocabulary": [str], "length": int, "dim": int, "seed?": int}


class Words:
    """``encode(prompts)`` turns sentences over a vocabulary into condition tokens of our networks.

    Token ``i`` of a prompt is the vector of its word, normal numbers that follow from ``seed`` and the word
    alone, plus sines and cosines of place ``i`` (Vaswani et al., 2017, arXiv 1706.03762, section 3.5), both
    equally long. The rates of the waves are spread evenly over (0, pi), not geometrically: in prompts this
    short, neighbouring places should be as far apart as any.

    Arguments:
        vocabulary: words, each one once.
        length: most words of a prompt; more are cut off, with one warning.
        dim: size of a token, even.
        seed: of the words' vectors.
    """

    def __init__(self, vocabulary: Sequence[str], length: int = 8, dim: int = 48, seed: int = 0):
        require(
            len(vocabulary) > 0 and len(set(vocabulary)) == len(vocabulary),
            "A vocabulary holds at least one word, each one once.",
        )
        require(1 <= length <= MOST, f"A prompt is allowed 1 to {MOST} words, not {length}.")
        require(2 <= dim <= MOST and dim % 2 == 0, f"The size of a token is even, at most {MOST}, not {dim}.")
        self.vocabulary, self.length, self.dim, self.seed = tuple(vocabulary), length, dim, seed
        self.rows = {word: row for row, word in enumerate(self.vocabulary)}
        normal = [
            torch.randn(dim, generator=torch.Generator().manual_seed(seed_of("word", seed, word)))
            for word in self.vocabulary
        ]
        angle = math.pi * torch.arange(length)[:, None] * (torch.arange(dim // 2) + 0.5) / (dim // 2)
        self.vectors, self.places = (
            math.sqrt(0.5) * torch.stack(normal),
            torch.cat([angle.sin(), angle.cos()], 1),
        )
        self._told = False

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``tokens`` (B, length, dim) float32 and ``mask`` (B, length), True where there is a word; all False
        for an empty prompt.

        Upper and lower case are one, a comma or full stop at the end of a word is passed over. Raises
        :class:`StillhouseError` for a word that is not in the vocabulary.
        """
        require(not isinstance(prompts, str), "Give a list of prompts, not one prompt.")
        split = [[self._row(word, prompt) for word in prompt.split()] for prompt in prompts]
        long = max((len(rows) for rows in split), default=0)
        if long > self.length and not self._told:
            self._told = True
            count = sum(len(rows) > self.length for rows in split)
            log.warning(
                "%d prompt(s) have more than %d words (up to %d); what is beyond is cut off.",
                count,
                self.length,
                long,
            )
        rows = torch.full((len(split), self.length), -1)
        for i, found in enumerate(split):
            rows[i, : len(found)] = torch.tensor(found[: self.length], dtype=torch.long)
        mask = rows >= 0
        return {"tokens": (self.vectors[rows] + self.places) * mask[..., None], "mask": mask}

    def _row(self, word: str, prompt: str) -> int:
        plain = word.lower().strip(".,;!")
        if plain not in self.rows:
            near = difflib.get_close_matches(plain, self.vocabulary, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(self.vocabulary)}."
            raise StillhouseError(f"The text encoder has no word '{word}', which is in '{prompt}'; {hint}")
        return self.rows[plain]

    def describe(self) -> dict[str, Any]:
        """Plain data; :meth:`from_description` makes the same encoder of it again."""
        return {
            "name": "words",
            "vocabulary": list(self.vocabulary),
            "length": self.length,
            "dim": self.dim,
            "seed": self.seed,
        }

    @classmethod
    def from_description(cls, described: dict[str, Any]) -> Words:
        """Inverse of :meth:`describe`; raises :class:`StillhouseError` for anything else."""
        fields = dict(described)
        name = fields.pop("name", None)
        require(name == "words", f"A text encoder of ours is described as 'words', not as {name!r}.")
        checked(described, DESCRIBED, "A text encoder can't be made")
        try:
            return cls(**fields)
        except TypeError as error:
            raise StillhouseError(f"A text encoder can't be made from {fields}: {error}.") from error
