"""What a network says about tokens: one logit a token at every position, and their log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from stillhouse.core.discrete import of_tokens, one_hot
from stillhouse.core.errors import StillhouseError, required_type
from stillhouse.core.prediction import KINDS, At, Kind, Prediction


@dataclass
class TokenPrediction(Prediction):
    """The prediction of a denoiser of tokens. ``log_probs``: (B, L, vocab), of the clean token at every
    position; ``x0``: the likeliest ones."""

    @cached_property
    def log_probs(self) -> Tensor:
        return of_tokens(self.at.process).read(self.raw, self.at.x)

    def replace(self, raw: Tensor) -> TokenPrediction:
        return TokenPrediction(raw, self.kind, self.at)

    def with_x0(self, x0: Tensor) -> TokenPrediction:
        """The same state and time with certain tokens ``x0`` (B, L) as the prediction."""
        return self.replace(one_hot(x0, of_tokens(self.at.process).vocab))


def of_words(pred: Prediction) -> TokenPrediction:
    """``pred``, if it is one of tokens; otherwise :class:`StillhouseError`."""
    return required_type(pred, TokenPrediction, "This works on tokens; the model predicts something else.")


class Logits(Kind):
    """One logit a real token, (B, L, vocab); a column for the mask, if there is one, is not read."""

    def predict(self, raw: Tensor, at: At) -> TokenPrediction:
        return TokenPrediction(raw, self, at)

    def x0(self, raw: Tensor, at: At) -> Tensor:
        return of_tokens(at.process).read(raw, at.x).argmax(-1)

    def eps(self, raw: Tensor, at: At) -> Tensor:
        raise StillhouseError(
            "Tokens have no noise that could be predicted, so no eps, velocity or score; use log_probs."
        )

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Any:
        raise StillhouseError(
            "A network of tokens is trained by the likelihood of its logits (parts.tokens.nelbo), not by "
            "regression."
        )


KINDS["logits"] = Logits
