"""``stillhouse check``: do the claims of the systems hold, and do they fail without the key idea?"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stillhouse.commands.parser import Parser, numbers
from stillhouse.core.errors import require

if TYPE_CHECKING:
    from stillhouse.checks.runner import Outcome
    from stillhouse.checks.spread import Spread


def check(words: list[str]) -> int:
    """``stillhouse check SLUG… | --all``; 0 only if all is as it should be."""
    parser = Parser(
        "check",
        "Measure the claims of systems. With --ablate each key idea is taken away, and a claim must fail.",
    )
    parser.add_argument("slugs", metavar="SLUG", nargs="*", help="systems")
    parser.add_argument("--all", action="store_true", help="every system")
    parser.add_argument(
        "--ablate", action="store_true", help="take each key idea away; done well if a claim fails"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, default=0, help="[0]")
    which.add_argument(
        "--seeds",
        metavar="N | A,B,…",
        help="the seeds 0 to N - 1, or those listed: mean, deviation, and deviations between mean and bound",
    )
    parser.add_argument("--jobs", type=int, default=1, help="checks at a time, each in its own process [1]")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse(words)
    seeds = [given.seed] if given.seeds is None else _several(given.seeds)

    from stillhouse.checks.runner import choose, load_check, run_checks
    from stillhouse.checks.spread import spreads

    outcomes = run_checks(choose(given.slugs, given.all), seeds=seeds, ablate=given.ablate, jobs=given.jobs)
    results: Iterable[Outcome | Spread] = outcomes if given.seeds is None else spreads(outcomes, seeds)
    done = []
    for made in results:
        if given.json:
            print(json.dumps(made.config(), ensure_ascii=False), flush=True)
        else:
            _show(made, load_check(made.slug).ABLATIONS[made.ablation] if made.ablation else "")
        done.append(made.as_it_should)
    if not given.json:
        print(f"{sum(done)} of {len(done)} as they should be")
    return 0 if all(done) else 1


def _several(text: str) -> list[int]:
    """The seeds that ``--seeds`` names: from 0 on for a single number, which is how many; else those
    listed."""
    listed = numbers(text, "--seeds")
    seeds = listed if "," in text else list(range(sum(listed)))
    require(
        0 < len(seeds) == len(set(seeds)) and min(seeds) >= 0,
        f"--seeds takes how many, or different seeds from 0 on with commas between them, not '{text}'.",
    )
    return seeds


def _show(made: Outcome | Spread, without: str) -> None:
    """Print what was measured, a line a claim. ``without``: what the ablation takes away, in a sentence."""
    of = f" without {made.ablation} ({without})" if made.ablation else ""
    print(f"{made.slug} on {made.world}{of}{made.over}, {made.seconds:.1f} s")
    for line in made.lines():
        print(f"  {line}")
    verdict = "fails as it should" if made.as_it_should else "HOLDS, THOUGH IT SHOULD FAIL"
    print(f"  {verdict}\n" if made.ablation else "", flush=True)
