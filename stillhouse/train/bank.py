"""A bank of stored rows (teacher pairs, trajectories): filled once in shards, resumable, drawn from at
random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from stillhouse.core.draws import Draws
from stillhouse.io.weights import atomic_write

SHARD = 1024


def fill(
    size: int, rows: Callable[[int, int], dict[str, Tensor]], folder: Path | None, *, show: bool = True
) -> dict[str, Tensor]:
    """``size`` rows, made in shards; shards already in ``folder`` are read, new ones written there.

    Arguments:
        size: of the bank, in rows.
        rows: ``rows(shard, count)`` makes the ``count`` rows of a shard: tensors (count, …) by name.
        folder: of the shards; None: nothing is kept on disk.
        show: a progress bar, where there is more than one shard.

    Returns:
        The bank: tensors (size, …) by name.
    """
    shards = []
    starts = range(0, size, SHARD)
    for shard, start in enumerate(
        tqdm(starts, desc="bank", disable=not show or len(starts) < 2, unit="shard")
    ):
        count = min(SHARD, size - start)
        path = folder / f"{shard:05d}-{count}.safetensors" if folder else None
        if path and path.exists():
            shards.append(load_file(path))
            continue
        made = rows(shard, count)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, save({k: v.contiguous() for k, v in made.items()}))
        shards.append(made)
    return {k: torch.cat([s[k] for s in shards]) for k in shards[0]}


def draw(bank: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
    """Rows of the bank, with replacement.

    Arguments:
        bank: tensors (size, …) by name.
        draws: the source of randomness, for ``draws.rows`` rows.

    Returns:
        The rows drawn, tensors (rows, …) by name, on the device of ``draws``.
    """
    index = draws.integers(0, len(next(iter(bank.values()))))
    return {k: v[index.cpu()].to(draws.device) for k, v in bank.items()}
