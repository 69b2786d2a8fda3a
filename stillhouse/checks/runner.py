"""Runs the checks of systems, found by their slugs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

from stillhouse import checks
from stillhouse.checks.base import Claim
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.systems.registry import get_system, list_systems


@dataclass(frozen=True)
class Outcome:
    """What one run of one system's check measured. ``ablation``: what was taken away, empty for nothing."""

    slug: str
    world: str
    seconds: float
    claims: tuple[Claim, ...]
    ablation: str = ""
    over = ""  # no seeds but one

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(c.holds for c in self.claims)

    @property
    def as_it_should(self) -> bool:
        """The claims hold, or one fails where the key idea was taken away."""
        return self.holds != bool(self.ablation)

    def lines(self) -> list[str]:
        """One line a claim, as a person reads it."""
        return [
            f"{'holds' if c.holds else 'FAILS'}  {c.value:<10.4g} {c.bound:<10} {c.claim}"
            for c in self.claims
        ]

    def config(self) -> dict[str, Any]:
        """Plain data."""
        made = {
            "slug": self.slug,
            "world": self.world,
            "seconds": round(self.seconds, 2),
            "claims": [c.config() for c in self.claims],
        }
        return {**made, "holds": self.holds, **({"ablation": self.ablation} if self.ablation else {})}


def load_check(slug: str) -> ModuleType:
    """The check module of a system; raises :class:`StillhouseError` if there is none or it lacks a name."""
    found = [file for root in checks.__path__ for file in Path(root).glob(f"*/{slug}.py")]
    require(len(found) == 1, f"The system '{slug}' has no check; write stillhouse/checks/FAMILY/{slug}.py.")
    module = import_module(f"stillhouse.checks.{found[0].parent.name}.{slug}")
    for name in ("WORLD", "ABLATIONS", "check"):  # the tests need its CONTRACT as well
        require(hasattr(module, name), f"The check of '{slug}' lacks {name}.")
    require(
        bool(module.ABLATIONS),
        f"The check of '{slug}' names no ablation: a check that cannot fail shows nothing.",
    )
    return module


def run_check(slug: str, seed: int = 0, ablation: str = "") -> Outcome:
    """Measure the claims of one system, its key idea ``ablation`` removed if one is named.

    A run that ends in an error of our own (a loss that is no longer finite, for example) counts as a claim
    that fails.
    """
    problem = next((s.problem for s in list_systems() if s.slug == slug), "")
    if problem:
        return Outcome(slug, "", 0.0, (Claim(problem, math.nan, "readable", False),))
    module = load_check(slug)
    if ablation and ablation not in module.ABLATIONS:
        raise unknown(f"ablation of '{slug}' named", ablation, module.ABLATIONS)
    from stillhouse.train.loop import Interrupted

    began = time.perf_counter()
    try:
        claims = tuple(module.check(seed, ablation))
    except Interrupted:
        raise  # its user stopped it: that is no result for the claim
    except StillhouseError as error:
        claims = (Claim(f"the run reaches its end, but: {error}", math.nan, "finite", False),)
    require(bool(claims), f"The check of '{slug}' makes no claim.")
    return Outcome(slug, module.WORLD, time.perf_counter() - began, claims, ablation)


def choose(slugs: Sequence[str], everything: bool) -> list[str]:
    """The slugs of the systems to check, all of which must exist; named ones must be readable as well."""
    require(everything != bool(slugs), "Name the systems to check, or give --all.")
    return [s.slug for s in list_systems()] if everything else [get_system(s).slug for s in slugs]


def run_checks(
    slugs: Sequence[str], *, seeds: Sequence[int] = (0,), ablate: bool = False, jobs: int = 1
) -> Iterator[Outcome]:
    """The outcomes in order, as they come: each check, or each of its ablations with ``ablate``, on all
    ``seeds`` in turn. ``jobs``: processes at work."""
    require(jobs >= 1, f"The number of jobs is 1 or more, not {jobs}.")
    # a missing check is reported before the first one is run; a system's file that can't be read fails alone
    broken = {s.slug for s in list_systems() if s.problem}
    modules = {slug: None if slug in broken else load_check(slug) for slug in slugs}
    work = [
        (slug, seed, name)
        for slug, module in modules.items()
        for name in (module.ABLATIONS if ablate and module else [""])
        for seed in seeds
    ]
    if jobs == 1:
        yield from (run_check(*item) for item in work)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_check, *zip(*work, strict=True))
