"""How long one sample takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from stillhouse.core.errors import require


def per_sample_time(make: Callable[[], object], samples: int, *, repeats: int = 5, warmup: int = 1) -> float:
    """Seconds per sample, the GPU's work included.

    Arguments:
        make: called without arguments; makes ``samples`` samples.
        samples: of one call, at least 1.
        repeats: calls over which the median is taken, at least 1.
        warmup: calls before, which don't count.

    Returns:
        Seconds.
    """
    require(samples >= 1 and repeats >= 1, "Timing needs at least one sample and one repeat.")

    def once() -> float:
        start = time.perf_counter()
        make()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(warmup):
        once()
    return statistics.median(once() for _ in range(repeats)) / samples
