"""What a check reports: claims, each a measured value beside its bound.

A system's check is ``stillhouse/checks/<family>/<slug>.py`` with four names: ``WORLD``, the world it is
measured in; ``ABLATIONS``, name -> the key idea that is taken away; ``CONTRACT``, a quick setting of the
system for the suites under ``tests/systems/``; and ``check(seed, ablation="") -> list[Claim]``. Under each
ablation at least one claim must fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillhouse.core.process import Process
from stillhouse.core.schedules import Flow

if TYPE_CHECKING:
    from stillhouse.model import Model


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


@dataclass(frozen=True)
class Contract:
    """A setting of one system in which its kind's contract suite takes seconds and every branch of it.

    ``options``: of the system. ``world``: name and options. ``process``, ``kind``: of the small network that
    is the teacher or, for a system without one, the network that is trained; ``network``: its options, of the
    world's own kind. ``means``: options under which a method's losses are plain means over the batch, where
    ``options`` has a term that is none. ``still``: samples of the product follow from their conditions alone.
    ``models``: what an operation or a program is given besides its teacher, by the name of the need, made of
    the teacher. ``estimators``: scikit-learn estimators, for a system that is one.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    process: Process = field(default_factory=Flow)
    kind: str = "velocity"
    world: Mapping[str, Any] = field(default_factory=lambda: {"name": "mixture"})
    network: Mapping[str, Any] = field(default_factory=lambda: {"width": 16, "depth": 1})
    means: Mapping[str, Any] | None = None
    still: bool = False
    models: Callable[[Model], Mapping[str, Model]] = lambda teacher: {}
    estimators: tuple[Any, ...] = ()
