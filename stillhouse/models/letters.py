"""Characters as tokens: one symbol, one number. Nothing is trained, nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.structure import checked

GAP = "_"  # one of these in a prompt is one token to be filled in
SHOWN = "▁"  # how a token that is still masked is written

DESCRIBED = {"name": str, "alphabet": str, "folded?": bool}


class Tokenizer(Protocol):
    """Between texts and the tokens of a model. ``size``: number of real tokens; token ``size`` is the
    mask."""

    size: int

    def encode(self, text: str) -> list[int]:
        """Tokens of ``text``; each ``_`` in it is the mask."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; masks are shown as ``▁``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain data for headers."""
        ...


class Letters:
    """Each character of ``alphabet`` is a token, numbered in its order. ``folded``: capitals are read as
    small letters."""

    def __init__(self, alphabet: str, folded: bool = True):
        require(
            len(alphabet) >= 2 and len(set(alphabet)) == len(alphabet),
            "An alphabet holds at least two characters, each one once.",
        )
        require(GAP not in alphabet, f"'{GAP}' stands for a gap; an alphabet can't hold it.")
        self.alphabet, self.folded, self.size = alphabet, folded, len(alphabet)
        self.rows = {character: row for row, character in enumerate(alphabet)} | {GAP: self.size}

    def encode(self, text: str) -> list[int]:
        """Tokens of ``text``; raises :class:`StillhouseError` for a character outside the alphabet."""
        plain = text.lower() if self.folded else text
        for character in plain:
            if character not in self.rows:
                raise StillhouseError(
                    f"The model has no token for {character!r} in '{text}'; it has {self.alphabet!r}, "
                    f"and '{GAP}' for a gap."
                )
        return [self.rows[character] for character in plain]

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters of ``tokens``, whole numbers in 0 … size."""
        return "".join((self.alphabet + SHOWN)[int(token)] for token in tokens)

    def describe(self) -> dict[str, Any]:
        """Plain data; :meth:`from_description` makes the same tokenizer of it again."""
        return {"name": "letters", "alphabet": self.alphabet, "folded": self.folded}

    @classmethod
    def from_description(cls, described: dict[str, Any]) -> Letters:
        """Inverse of :meth:`describe`; raises :class:`StillhouseError` for anything else."""
        fields = dict(described)
        name = fields.pop("name", None)
        require(name == "letters", f"A tokenizer of ours is described as 'letters', not as {name!r}.")
        checked(described, DESCRIBED, "A tokenizer can't be made")
        try:
            return cls(**fields)
        except TypeError as error:
            raise StillhouseError(f"A tokenizer can't be made from {fields}: {error}.") from error


def texts_of(tokenizer: Tokenizer, tokens: Tensor) -> list[str]:
    """Tokens as one string each.

    Arguments:
        tokenizer: of the tokens.
        tokens: in 0 … size, (B, L).

    Returns:
        B strings.
    """
    return [tokenizer.decode(row) for row in tokens.tolist()]


def with_gaps(tokenizer: Tokenizer, prompts: Sequence[str], length: int) -> Tensor:
    """Masked states of prompts: their tokens, with masks in their gaps and behind their end.

    Arguments:
        tokenizer: of the model.
        prompts: texts, ``_`` for a token to be filled in.
        length: of the states, in tokens.

    Returns:
        States, (P, length) int64; raises :class:`StillhouseError` for a prompt of more than ``length``
        tokens.
    """
    state = torch.full((len(prompts), length), tokenizer.size)
    for row, prompt in zip(state, prompts, strict=True):
        tokens = tokenizer.encode(prompt)
        require(
            len(tokens) <= length,
            f"The prompt '{prompt}' has {len(tokens)} tokens, the model writes {length}; shorten it.",
        )
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return state


def tokenizer_from(described: dict[str, Any] | None) -> Letters | None:
    """The tokenizer that a header describes, if any."""
    return None if described is None else Letters.from_description(described)
