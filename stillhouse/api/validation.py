"""Prompts that the student is sampled with now and then, always from the same noise, into the run's
folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stillhouse import forms
from stillhouse.core.conditions import move
from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.io.data.prompts import PROMPT_FILES, read_prompts
from stillhouse.io.weights import atomic_write
from stillhouse.model import Model
from stillhouse.train.health import Probe
from stillhouse.train.loop import Trainer

FOLDER = "validation"


def prompts_of(given: Sequence[str] | str | Path) -> list[str]:
    """The prompts that are meant by words, each a prompt or the file of several."""
    words = [given] if isinstance(given, str | Path) else given
    found = []
    for word in map(str, words):
        found += read_prompts(word) if Path(word).suffix.lower() in PROMPT_FILES else [word]
    require(all(prompt.strip() for prompt in found), "A prompt for validation is empty.")
    return found


class Validation:
    """Samples of a run's prompts: ``FOLDER/step-NNNNNNNN.png``, and ``FOLDER/prompts.txt`` in their order.

    Arguments:
        base: the teacher, whose text encoder and codec are used.
        prompts: one a sample.
        folder: of the run; None: nothing can be written, which is refused where there are prompts.
        every: iterations between two looks; 0: a tenth of the run.
        seed: of the noise.
    """

    def __init__(self, base: Model, prompts: Sequence[str], folder: Path | None, every: int, seed: int):
        self.base, self.every = base, every
        required(folder, "Samples of validation prompts are written to the run's folder; name one.")
        text = required(base.text, "The teacher takes no prompts, so there are none to validate with.")
        self.prompts = list(prompts)
        with torch.no_grad():
            cond = move(text.encode(self.prompts), "cpu")
        if cond is None:
            raise StillhouseError("The teacher's text encoder gives nothing.")
        self.probe = Probe(base, cond, seed)

    def __call__(self, trainer: Trainer, step: int) -> None:
        """Sample after an iteration, if it is time to.

        Arguments:
            trainer: of the run.
            step: the iteration's number, from 0.
        """
        total = trainer.recipe.steps
        every = self.every or max(1, total // 10)
        if not (trainer.engine.main and trainer.out) or ((step + 1) % every and step + 1 != total):
            return
        made = trainer.product()
        if not isinstance(made, Model):
            return  # a network that makes no samples
        samples = self.probe.samples(made, next(iter(made.samplings.values())))
        folder = trainer.out / FOLDER
        forms.of(self.base).save_grid(folder / f"step-{step + 1:08d}", self.base, samples)
        atomic_write(folder / "prompts.txt", "\n".join([*self.prompts, ""]).encode())
