"""Samples that an evaluation without a world has kept: a page shows the very ones that were measured, and
opens neither model, teacher nor anybody's code again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, uint8

from stillhouse.core.errors import StillhouseError, require
from stillhouse.forms.views import Clips, Pictures, View, view_of
from stillhouse.io.checked import tensors_of

COLUMNS = 4  # pictures beside each other, large enough to be looked at


def kept_samples(file: Path, evaluation: Mapping[str, Any]) -> dict[str, Tensor]:
    """Samples of the ways that were measured, from the file beside an evaluation.

    Arguments:
        file: safetensors, samples of each row by its number, and ``real``.
        evaluation: whose rows they are.

    Returns:
        By number, pictures in [-1, 1]; ``real`` for samples of the reference, where there is one.

    Raises:
        StillhouseError: for a missing or torn file, or one of another evaluation.
    """
    require(
        file.is_file(),
        f"The samples of the evaluation ('{file}') are missing; evaluate again: stillhouse evaluate "
        f"{file.parent}",
    )
    try:
        kept = {name: _numbers(tensor) for name, tensor in tensors_of(file).items()}
    except StillhouseError as error:
        raise StillhouseError(f"{str(error).rstrip('.')}; evaluate the run again.") from error
    require(
        {str(i) for i in range(len(evaluation["rows"]))} <= set(kept),
        f"'{file}' holds the samples of another evaluation; evaluate the run again.",
    )
    return kept


def large_view(samples: Tensor) -> View | None:
    """Samples (B, …) as a view by their shape alone, few beside each other; None for what can't be drawn."""
    found = view_of(samples)
    if isinstance(found, Pictures):
        return Pictures(samples, columns=COLUMNS, few=COLUMNS)
    return Clips(found.clips, few=COLUMNS) if isinstance(found, Clips) else found


def _numbers(kept: Tensor) -> Tensor:
    """Bytes as pictures in [-1, 1]; other samples as they are."""
    return kept.float() / 127.5 - 1 if kept.dtype == uint8 else kept
