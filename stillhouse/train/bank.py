"""A bank of stored rows (teacher pairs, trajectories): filled once in shards, resumable, drawn from at
random."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.io.checked import tensors_of
from stillhouse.io.weights import atomic_write

SHARD = 1024
REFRESHED = 0.5  # seconds between two looks at the bar


def fill(
    size: int,
    rows: Callable[[int, int, Callable[[int], object]], dict[str, Tensor]],
    folder: Path | None,
    *,
    show: bool = True,
    teacher: nn.Module | None = None,
) -> dict[str, Tensor]:
    """``size`` rows, made in shards; shards already in ``folder`` are read, new ones written there.

    Arguments:
        size: of the bank, in rows.
        rows: ``rows(shard, count, made)`` makes the ``count`` rows of a shard, tensors (count, …) by name,
            and calls ``made(n)`` where ``n`` more of them are there.
        folder: of the shards; None: nothing is kept on disk.
        show: a progress bar.
        teacher: whose calls the bar counts, which move where rows are long in coming; None: of nobody.

    Returns:
        The bank: tensors (size, …) by name.
    """
    shards = []
    with progress(size, teacher, show) as made:
        for shard, start in enumerate(range(0, size, SHARD)):
            count = min(SHARD, size - start)
            path = folder / f"{shard:05d}-{count}.safetensors" if folder else None
            if path and path.exists():
                shards.append(_kept(path, count))
                made(count)
                continue
            rest = rows(shard, count, made)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, save({k: v.contiguous() for k, v in rest.items()}))
            shards.append(rest)
    return {k: torch.cat([s[k] for s in shards]) for k in shards[0]}


def _kept(path: Path, count: int) -> dict[str, Tensor]:
    """The rows of a shard that was written before."""
    found = tensors_of(path)
    whole = bool(found) and all(len(tensor.shape) and len(tensor) == count for tensor in found.values())
    require(whole, f"'{path}' does not hold the {count} rows of its shard; delete it, to make it anew.")
    return found


@contextmanager
def progress(size: int, teacher: nn.Module | None, show: bool) -> Iterator[Callable[[int], object]]:
    """A bar of rows that are made, and beside it how often the teacher was called.

    Arguments:
        size: of the bank, in rows.
        teacher: a denoiser; None: no count.
        show: the bar.

    Returns:
        A context: inside, call what it gives with the number of rows that were made.
    """
    with tqdm(total=size, desc="bank", disable=not show, unit="row", dynamic_ncols=True) as bar:
        calls, shown = 0, 0.0

        def called(*_: object) -> None:
            nonlocal calls, shown
            calls += 1
            if time.monotonic() - shown > REFRESHED:
                shown = time.monotonic()
                bar.set_postfix_str(f"{calls} calls of the teacher")

        hook = teacher.register_forward_hook(called) if show and teacher is not None else None
        try:
            yield bar.update
        finally:
            if hook is not None:
                hook.remove()


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
