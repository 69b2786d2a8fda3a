"""A time axis cut into equal segments, within which jumps are to be consistent."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.draws import Draws


def segment_pair(levels: int, segments: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours ``t > u`` on the grid ``0, 1/levels, … 1``, and the lower end ``b <= u`` of the segment that
    holds both.

    ``b`` is that of ``u``: a pair whose upper point lies on a boundary belongs to the segment below (Ren et
    al., 2024, arXiv 2404.13686, section 3.1).

    Arguments:
        levels: steps of the grid.
        segments: a divisor of ``levels``: then every boundary is a level, and no step of the grid crosses
            one.
        draws: the source of randomness.

    Returns:
        ``t``, ``u`` and ``b``, each (rows,), in [0, 1].
    """
    lower, each = draws.integers(0, levels), levels // segments
    return (lower + 1) / levels, lower / levels, (lower // each * each) / levels


def halvings(first: int, last: int) -> list[int]:
    """``first, first / 2, … last``.

    Arguments:
        first: ``last`` times 1, 2, 4, 8 …
        last: at least 1.

    Returns:
        The numbers, both ends included.
    """
    return [first >> k for k in range((first // last).bit_length())]


def parted(total: int, shares: list[float]) -> list[int]:
    """Whole lengths in proportion to ``shares`` (not all 0) that add up to ``total``; none is 0 unless
    ``total`` is too small.

    Arguments:
        total: the sum of the lengths.
        shares: of any sum above 0.

    Returns:
        A length for each share.
    """
    whole = sum(shares)
    ends = torch.tensor(shares, dtype=torch.float64).cumsum(0).mul(total / whole).round().long().tolist()
    return [b - a for a, b in zip([0, *ends], ends, strict=False)]
