"""What an evaluation's figures were made with, and figures as JSON has them."""

from __future__ import annotations

import math
import platform
from importlib import metadata

import torch


def plain(value: float) -> float | None:
    """A number that JSON has; None for one that is not finite."""
    return float(value) if math.isfinite(value) else None


def versions() -> dict[str, str]:
    """What the figures were made with."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "threads": str(torch.get_num_threads()),
    }
    for package in ("stillhouse", "torch", "diffusers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
