"""``stillhouse sample RUN --out chunks.gif``: what a policy does where its world's demonstrators were."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from stillhouse.model import Model
    from stillhouse.worlds.base import World

FEW = 16


def sample_policy(model: Model, world: World, given: argparse.Namespace, rows: list[int]) -> int:
    """Write chunks of ``model`` to ``given.out``, as numbers or, where the world can be drawn, as a moving
    picture.

    ``rows``: the numbers of the demonstrated rows whose observations it hears, repeated as often as needed;
    held-out ones if empty.
    """
    import torch

    from stillhouse.io.images import save_samples
    from stillhouse.io.media import ENDINGS, save_clips

    n = given.n if given.n is not None else len(rows) or FEW
    require(n >= 1, f"The number of samples must be 1 or more, not {n}.")
    fits = world.cond_kind == model.cond_kind and tuple(world.shape) == tuple(model.shape)
    require(
        fits,
        f"The world '{world.name}' has no observations for a policy of chunks {tuple(model.shape)}; sample "
        "it from Python.",
    )
    labels = (
        torch.tensor([rows[i % len(rows)] for i in range(n)]) if rows else world.balanced_labels(n, "test")
    )
    chunks: Tensor = model.sample(
        n, world.condition(labels), steps=given.steps, guidance=given.guidance, seed=given.seed
    ).cpu()
    if Path(given.out).suffix in ENDINGS:
        frames = world.frames_of(chunks, labels)
        require(
            frames is not None,
            f"Chunks of this world can't be drawn; write them as numbers, not as '{given.out}'.",
        )
        assert frames is not None
        path = save_clips(given.out, frames, columns=given.columns)
    else:
        path = save_samples(given.out, chunks, labels)
    sampling = model.sampling(given.steps, given.guidance)
    calls = sampling.nfe(model.denoiser)
    print(
        f"{path}: {n} chunks of {model.shape[0]} actions in {len(sampling.times) - 1} step(s), {calls} "
        "network call(s) each"
    )
    return 0
