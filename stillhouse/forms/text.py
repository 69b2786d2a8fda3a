"""Texts (L,) of tokens: printed, written as .txt, and filled in where a prompt has gaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import require, required
from stillhouse.forms.base import DEFAULT_OUT, Form, Request, Sampled

if TYPE_CHECKING:
    from torch import Tensor

    from stillhouse.models.letters import Tokenizer


class Text(Form):
    """Rows of tokens of a discrete process."""

    name = "text"
    shown, few = 6, 8
    continuous = False

    def fits(self, model: Sampled) -> bool:
        return model.denoiser.process.discrete

    def gaps(self, model: Sampled, n: int, prompts: Sequence[str]) -> Tensor:
        """Prompts as tokens, with masks at their gaps."""
        from stillhouse.core.conditions import cycled
        from stillhouse.models.letters import with_gaps

        tokenizer = required(model.tokenizer, "This model has no tokenizer, and can't read a prompt.")
        require(
            model.denoiser.process.name == "masked",
            "Only a masked process keeps a prompt's tokens; this model revises every token.",
        )
        require(len(prompts) > 0, "The list of prompts is empty.")
        require(len(prompts) <= n, f"{len(prompts)} prompts need as many texts, not {n}.")
        return cycled(with_gaps(tokenizer, prompts, model.shape[0]), n)

    def prompted(self, model: Sampled, n: int, cond: Any, start: Tensor | None) -> tuple[Any, Tensor | None]:
        if isinstance(cond, str | list | tuple):
            return None, self.gaps(model, n, [cond] if isinstance(cond, str) else list(cond))
        return cond, start

    def fill(
        self,
        model: Sampled,
        prompts: str | Sequence[str],
        n: int = 0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> list[str]:
        """Texts that keep ``prompts`` but for their gaps.

        Arguments:
            model: of texts, with a tokenizer and a masked process.
            prompts: one or several; each ``_`` is a token to be filled in, like all that follows.
            n: number of texts, prompts in turn; 0 for one a prompt.
            steps: number of steps; None for the default.
            guidance: scale ``w``, 1 for none; None for the sampling's own.
            seed: of all random draws.

        Returns:
            ``n`` strings.
        """
        words = [prompts] if isinstance(prompts, str) else list(prompts)
        tokenizer = self._tokenizer(model)
        tokens = model.sample(n or max(1, len(words)), words, steps=steps, guidance=guidance, seed=seed)
        return _read(tokenizer, tokens)

    def sample(self, model: Sampled, request: Request) -> str:
        """Texts, printed and, if a file is named, written; prompts are kept but for their gaps."""
        from stillhouse.io.images import save_samples
        from stillhouse.io.texts import save_texts

        require(not request.labels, "A model of texts takes no labels.")
        tokenizer = self._tokenizer(model)
        n = request.n if request.n is not None else len(request.prompts) or self.few
        tokens = model.sample(
            n,
            list(request.prompts) or None,
            steps=request.steps,
            guidance=request.guidance,
            seed=request.seed,
        ).cpu()
        lines = texts = _read(tokenizer, tokens)
        if request.out != DEFAULT_OUT:
            path = Path(request.out)
            made = save_texts(path, texts) if path.suffix == ".txt" else save_samples(path, tokens)
            lines = [*texts, str(made)]
        steps = model.sampling(request.steps).count
        return "\n".join([*lines, f"{n} texts of {model.shape[0]} tokens in {steps} step(s)"])

    def save_grid(self, path: Path, model: Sampled, samples: Tensor) -> Path:
        from stillhouse.io.texts import save_texts

        if model.tokenizer is None:
            return super().save_grid(path, model, samples)
        return save_texts(path.with_suffix(".txt"), _read(model.tokenizer, samples))

    @staticmethod
    def _tokenizer(model: Sampled) -> Tokenizer:
        return required(model.tokenizer, "This model has no tokenizer, so that its tokens can't be read.")


def _read(tokenizer: Tokenizer, tokens: Tensor) -> list[str]:
    from stillhouse.models.letters import texts_of

    return texts_of(tokenizer, tokens)
