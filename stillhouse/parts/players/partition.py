"""Conditions in disjoint parts, each to have a student of its own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.errors import require
from stillhouse.models.routed import pooled


def label_blocks(classes: int, parts: int) -> dict[str, Any]:
    """Consecutive labels in blocks of nearly equal size.

    Arguments:
        classes: how many labels there are.
        parts: how many blocks, 2 to ``classes``; raises :class:`StillhouseError` for other numbers.

    Returns:
        The partition as plain data for :func:`stillhouse.models.routed.route`.
    """
    require(
        2 <= parts <= classes, f"{classes} classes can be parted into 2 to {classes} blocks, not {parts}."
    )
    return {"name": "blocks", "classes": classes, "parts": parts}


def embedding_signs(cond: Condition, parts: int) -> dict[str, Any]:
    """Prompts by the signs of their pooled embeddings along the leading principal directions.

    Two directions make the four quadrants of Song et al., 2024 (arXiv 2410.23274); that they are principal
    ones is our reading.

    Arguments:
        cond: embedded prompts.
        parts: 2 or 4, or a higher power of 2.

    Returns:
        The partition as plain data for :func:`stillhouse.models.routed.route`.
    """
    vectors = pooled(cond).double().cpu()
    count = int(math.log2(parts))
    require(
        parts >= 2 and 2**count == parts,
        f"Prompts are parted by signs, into 2, 4, 8 … parts, not {parts}.",
    )
    require(
        min(vectors.shape) > count and len(vectors) >= parts,
        f"{len(vectors)} prompts are too few for {parts} parts.",
    )
    centre = vectors.mean(0)
    directions = torch.linalg.svd(vectors - centre, full_matrices=False)[2][:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()  # a principal direction's own sign is arbitrary
    return {"name": "signs", "centre": centre.tolist(), "directions": directions.tolist()}


def rows_of(part: Tensor, k: int) -> Tensor:
    """Which rows lie in one part; raises :class:`StillhouseError` if none does.

    Arguments:
        part: the number of each row's part, (B,) integers.
        k: the part.

    Returns:
        Indices of its rows, (M,) int64.
    """
    rows = (part == k).nonzero()[:, 0]
    require(len(rows) > 0, f"No condition lies in part {k}; take fewer parts or more prompts.")
    return rows
