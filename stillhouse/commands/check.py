"""``stillhouse check``: do the claims of the systems hold, and do they fail without the key idea?"""

from __future__ import annotations

import json

from stillhouse.commands.parser import Parser


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
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--jobs", type=int, default=1, help="checks at a time, each in its own process [1]")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse(words)

    from stillhouse.checks.runner import Outcome, choose, run_checks
    from stillhouse.checks.runner import load_check as load

    def show(outcome: Outcome) -> None:
        if given.json:
            print(json.dumps(outcome.config(), ensure_ascii=False), flush=True)
            return
        without = (
            f" without {outcome.ablation} ({load(outcome.slug).ABLATIONS[outcome.ablation]})"
            if outcome.ablation
            else ""
        )
        print(f"{outcome.slug} on {outcome.world}{without}, {outcome.seconds:.1f} s")
        for claim in outcome.claims:
            print(
                f"  {'holds' if claim.holds else 'FAILS'}  {claim.value:<10.4g} {claim.bound:<10} "
                f"{claim.claim}"
            )
        verdict = (
            ("fails as it should" if not outcome.holds else "HOLDS, THOUGH IT SHOULD FAIL")
            if outcome.ablation
            else ""
        )
        print(f"  {verdict}\n" if verdict else "", flush=True)

    outcomes = []
    for outcome in run_checks(
        choose(given.slugs, given.all), seed=given.seed, ablate=given.ablate, jobs=given.jobs
    ):
        show(outcome)
        outcomes.append(outcome)
    good = sum(o.as_it_should for o in outcomes)
    if not given.json:
        print(f"{good} of {len(outcomes)} as they should be")
    return 0 if good == len(outcomes) else 1
