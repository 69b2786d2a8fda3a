"""``stillhouse sample RUN --prompt "the ____ of a text"``: write texts, or fill in the gaps of one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.errors import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.model import Model

FEW = 8  # texts, where nobody says how many


def sample_text(model: Model, given: argparse.Namespace, prompts: Sequence[str]) -> int:
    """Print texts of ``model``, and write them to ``given.out`` if a file is named there; ``prompts`` are
    kept but for their gaps."""
    from stillhouse.io.images import save_samples
    from stillhouse.io.texts import save_texts
    from stillhouse.models.letters import texts_of

    require(not given.labels, "A model of texts takes no labels.")
    require(model.tokenizer is not None, "This model has no tokenizer, so that its tokens can't be read.")
    assert model.tokenizer is not None
    n = given.n if given.n is not None else len(prompts) or FEW
    tokens = model.sample(
        n, list(prompts) or None, steps=given.steps, guidance=given.guidance, seed=given.seed
    ).cpu()
    texts = texts_of(model.tokenizer, tokens)
    print("\n".join(texts))
    if given.out != "samples":
        path = Path(given.out)
        print(save_texts(path, texts) if path.suffix == ".txt" else save_samples(path, tokens))
    steps = len(model.sampling(given.steps).times) - 1
    print(f"{n} texts of {model.shape[0]} tokens in {steps} step(s)")
    return 0
