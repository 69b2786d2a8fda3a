"""The view of a run that was evaluated without a world: what is shown are the very samples that were
measured, so that neither model, teacher nor anybody's code is opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.api.evaluate import EVALUATION, SHOWN
from stillhouse.core.errors import StillhouseError, require
from stillhouse.forms.views import Clips, Pictures, View, view_of
from stillhouse.report.view import RunView, Strip

COLUMNS = 4  # pictures beside each other, large enough to be looked at


def kept_strips(file: Path, evaluation: dict[str, Any]) -> tuple[list[Strip], Tensor | None]:
    """Samples of the ways that were measured, from the file beside an evaluation.

    Arguments:
        file: safetensors, samples of each row by its number, uint8 for pictures, and ``real``.
        evaluation: whose rows they are.

    Returns:
        The strips in the order of the rows, and samples of the reference; None where there are none.

    Raises:
        StillhouseError: for a missing or torn file, or one of another evaluation.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require(
        file.is_file(),
        f"The samples of the evaluation ('{file}') are missing; evaluate again: stillhouse evaluate "
        f"{file.parent}",
    )
    try:
        held = {name: _numbers(tensor) for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise StillhouseError(f"'{file}' can't be read ({error}); evaluate the run again.") from error
    rows = evaluation["rows"]
    require(
        {str(i) for i in range(len(rows))} <= set(held),
        f"'{file}' holds the samples of another evaluation; evaluate the run again.",
    )
    strips = [
        Strip(row["who"], row["steps"], row["nfe"], row["default"], held[str(i)], _view(held[str(i)]))
        for i, row in enumerate(rows)
    ]
    return strips, held.get("real")


def kept_view(
    folder: Path, evaluation: dict[str, Any], name: str, teacher: str, config: dict[str, Any]
) -> RunView:
    """The view of a run's folder whose evaluation names no world.

    Arguments:
        folder: of the run.
        evaluation: what its ``evaluation.json`` holds.
        name: of the student, as shown.
        teacher: of its teacher, as shown.
        config: the run's settings, as shown.

    Returns:
        The view, without the rows of the journal.
    """
    strips, real = kept_strips((folder / EVALUATION).with_suffix(SHOWN), evaluation)
    prompts, count = evaluation["world"]["prompts"], len(strips[0].samples)
    used = evaluation["world"]["conditions"]
    labels = torch.arange(count) % used if used and not prompts else None
    captions = [prompts[i % len(prompts)] for i in range(count)] if prompts else []
    return RunView(name, teacher, evaluation, config, [], strips, labels, captions, real)


def _numbers(kept: Tensor) -> Tensor:
    """Bytes as pictures in [-1, 1]; other samples as they are."""
    return kept.float() / 127.5 - 1 if kept.dtype == torch.uint8 else kept


def _view(samples: Tensor) -> View | None:
    found = view_of(samples)
    if isinstance(found, Pictures):
        return Pictures(samples, columns=COLUMNS, few=COLUMNS)
    return Clips(found.clips, few=COLUMNS) if isinstance(found, Clips) else found
