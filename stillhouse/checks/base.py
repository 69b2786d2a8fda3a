"""What a check says: claims, each a measured value beside its bound.

A system's check is ``stillhouse/checks/<slug>.py`` with three names: ``WORLD``, the world it is measured in;
``ABLATIONS``, name -> the key idea that is taken away; and ``check(seed, ablation="") -> list[Claim]``. Under
each ablation at least one claim must fail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Claim:
    """A sentence, the value measured for it, the bound as text (``"<= 0.75"``), and whether it holds."""

    claim: str
    value: float
    bound: str
    holds: bool

    def config(self) -> dict[str, Any]:
        """Plain data; a value that is not finite is None."""
        return {
            "claim": self.claim,
            "value": self.value if math.isfinite(self.value) else None,
            "bound": self.bound,
            "holds": self.holds,
        }


def at_most(claim: str, value: float, bound: float) -> Claim:
    """``value <= bound``; not a number never holds."""
    return Claim(claim, float(value), f"<= {bound:g}", bool(value <= bound))


def at_least(claim: str, value: float, bound: float) -> Claim:
    """``value >= bound``; not a number never holds."""
    return Claim(claim, float(value), f">= {bound:g}", bool(value >= bound))
