"""How far a check's values stand from their bounds, over seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from stillhouse.checks.base import Claim
from stillhouse.checks.runner import Outcome
from stillhouse.core.errors import require

ENOUGH = 2.5  # deviations between a mean and its bound, at which a claim is asserted at all


@dataclass(frozen=True)
class ClaimSpread:
    """One claim over seeds: its values, in the order of the seeds, beside the bound. A seed whose run made no
    such claim has the value nan and does not hold."""

    claim: str
    bound: str
    values: tuple[float, ...]
    holds: tuple[bool, ...]

    @property
    def mean(self) -> float:
        """Of the values; nan if one of them is."""
        return fmean(self.values)

    @property
    def deviation(self) -> float:
        """The sample standard deviation of the values, 0 of one value; nan if one of them is."""
        if not all(map(math.isfinite, self.values)):
            return math.nan
        return stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def deviations(self) -> float:
        """Deviations between the mean and the bound, below 0 on its wrong side. Values that are all the same
        are infinitely far from a bound that they keep; nan if a value or the bound is no number."""
        side, _, number = self.bound.partition(" ")
        try:
            gap = (float(number) - self.mean) * {"<=": 1, ">=": -1}[side]
        except (KeyError, ValueError):
            return math.nan
        if self.deviation == 0:
            return math.inf if all(self.holds) else -math.inf
        return gap / self.deviation

    @property
    def near(self) -> bool:
        """Whether the mean is fewer than :data:`ENOUGH` deviations on the right side of the bound."""
        return self.deviations < ENOUGH

    def config(self) -> dict[str, Any]:
        """Plain data; a value that is not finite is None."""
        numbers = {"mean": self.mean, "deviation": self.deviation, "deviations": self.deviations}
        return {
            "claim": self.claim,
            "bound": self.bound,
            "values": [_finite(value) for value in self.values],
            **{name: _finite(value) for name, value in numbers.items()},
            "holds": all(self.holds),
        }


@dataclass(frozen=True)
class Spread:
    """The outcomes of one check, ablated or not, over ``seeds``. ``seconds``: of one run, on average."""

    slug: str
    world: str
    seeds: tuple[int, ...]
    seconds: float
    claims: tuple[ClaimSpread, ...]
    as_it_should: bool
    ablation: str = ""

    @property
    def over(self) -> str:
        """Which seeds, as they stand behind the name of the check."""
        return f", each of the seeds {', '.join(map(str, self.seeds))}"

    def lines(self) -> list[str]:
        """A head, and one line a claim, as a person reads it: "off" is how many deviations lie between mean
        and bound, with a mark where they are fewer than :data:`ENOUGH`."""
        made = [f"{'':<5}  {'mean':<10} {'deviation':<10} {'bound':<10} {'off':<7} claim"]
        for c in self.claims:
            held = "holds" if all(c.holds) else f"{sum(c.holds)}/{len(c.holds)}"
            off = f"{c.deviations:.3g}{' !' if c.near else ''}"
            made.append(f"{held:<5}  {c.mean:<10.4g} {c.deviation:<10.3g} {c.bound:<10} {off:<7} {c.claim}")
        return made

    def config(self) -> dict[str, Any]:
        """Plain data, with the entries of a single outcome."""
        return {
            "slug": self.slug,
            "world": self.world,
            "seconds": round(self.seconds, 2),
            "seeds": list(self.seeds),
            "claims": [claim.config() for claim in self.claims],
            "holds": all(all(claim.holds) for claim in self.claims),
            **({"ablation": self.ablation} if self.ablation else {}),
        }


def spread(outcomes: Sequence[Outcome], seeds: Sequence[int]) -> Spread:
    """One check's outcomes on several seeds as one.

    Arguments:
        outcomes: of the same check and the same ablation, one a seed.
        seeds: theirs, in the same order.

    Returns:
        Its claims, in the order in which they come first. Claims are the same if their sentences and bounds
        are; a sentence that stands twice in a check is told apart by its place.
    """
    require(bool(outcomes) and len(outcomes) == len(seeds), "A spread needs one outcome a seed.")
    by_seed = [dict(_numbered(outcome.claims)) for outcome in outcomes]
    keys = dict.fromkeys(key for claims in by_seed for key in claims)
    claims = []
    for key in keys:
        found = [claims.get(key) for claims in by_seed]
        values = tuple(claim.value if claim else math.nan for claim in found)
        claims.append(
            ClaimSpread(key[0], key[1], values, tuple(bool(claim and claim.holds) for claim in found))
        )
    first = outcomes[0]
    return Spread(
        first.slug,
        next((outcome.world for outcome in outcomes if outcome.world), ""),
        tuple(seeds),
        fmean(outcome.seconds for outcome in outcomes),
        tuple(claims),
        all(outcome.as_it_should for outcome in outcomes),
        first.ablation,
    )


def spreads(outcomes: Iterable[Outcome], seeds: Sequence[int]) -> Iterator[Spread]:
    """What ``run_checks(…, seeds=seeds)`` yields, one spread a check and ablation, each as soon as its last
    seed is there."""
    for _, found in groupby(outcomes, key=lambda outcome: (outcome.slug, outcome.ablation)):
        yield spread(list(found), seeds)


def _numbered(claims: Iterable[Claim]) -> Iterator[tuple[tuple[str, str, int], Claim]]:
    """Claims by sentence, bound, and how often both stood before in the same check."""
    before: Counter[tuple[str, str]] = Counter()
    for claim in claims:
        key = (claim.claim, claim.bound)
        yield (*key, before[key]), claim
        before[key] += 1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
