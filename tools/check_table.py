"""Write the table of claims over seeds in ``docs/benchmarks.md`` from what the checks print:

stillhouse check --all --seeds 8 --json > checks.jsonl
stillhouse check --all --seeds 8 --ablate --json >> checks.jsonl
python -m tools.check_table checks.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.checks.spread import ENOUGH
from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.weights import atomic_write

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PLACE = re.compile(r"(?<=<!-- checks -->\n).*(?=<!-- /checks -->)", re.S)


def read(files: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The lines of several seeds in ``files``, by slug; a later line of the same check takes the place of an
    earlier one."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        for n, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                made = json.loads(line)
                found[made["slug"], made.get("ablation", "")] = {**made, "seeds": list(made["seeds"])}
            except (ValueError, TypeError, KeyError) as error:
                raise StillhouseError(
                    f"Line {n} of {file} is not what 'stillhouse check --seeds … --json' prints."
                ) from error
    require(bool(found), "There is no check in these files.")
    return [found[key] for key in sorted(found)]


def row(slug: str, claim: Mapping[str, Any]) -> str:
    """One claim as a row: its sentence, bound, mean, deviation, and deviations between mean and bound."""
    bound = claim["bound"].replace("<=", "≤").replace(">=", "≥")
    mean, deviation = (math.nan if claim[name] is None else claim[name] for name in ("mean", "deviation"))
    off = "same" if deviation == 0 else "" if claim["deviations"] is None else f"{claim['deviations']:.1f}"
    cells = [f"{slug}: {claim['claim'].strip()}", bound, f"{mean:.3g}", f"{deviation:.2g}", off]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The table of what :func:`read` found, with its commands and what stands out of it."""
    checks = [made for made in lines if "ablation" not in made]
    ablated = [made for made in lines if "ablation" in made]
    claims = [(made["slug"], claim) for made in checks for claim in made["claims"]]
    failed = [slug for slug, claim in claims if not claim["holds"]]
    near = [s for s, c in claims if c["holds"] and (c["deviations"] or math.inf) < ENOUGH]
    parts = [
        "```\nstillhouse check --all --seeds 8 --json > checks.jsonl\n"
        "stillhouse check --all --seeds 8 --ablate --json >> checks.jsonl\n"
        "python -m tools.check_table checks.jsonl\n```",
        f"Of {len(claims)} claims of {len(checks)} systems on {_seeds(checks)}, {_those('fail', failed)} and "
        f"{_those(f'stand fewer than {ENOUGH:g} deviations off their bound', near)}. *Off*: deviations "
        "between "
        "mean and bound; *same*: the value is the same on every seed.",
        "\n".join(["| claim | bound | mean | deviation | off |", "|---|---|---|---|---|"])
        + "".join("\n" + row(slug, claim) for slug, claim in claims),
    ]
    if ablated:
        good = sum(not made["holds"] for made in ablated)
        parts.append(
            f"With the key idea taken out, {good} of {len(ablated)} ablations fail on {_seeds(ablated)}, "
            "as they "
            "should."
        )
    return "\n\n".join(parts) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Write the table into its place on the page, which has to be there."""
    parser = argparse.ArgumentParser(prog="tools.check_table", description=__doc__)
    parser.add_argument("files", nargs="+", help="what 'stillhouse check --seeds … --json' printed")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(words)
    page = given.page.read_text(encoding="utf-8")
    require(bool(PLACE.search(page)), f"{given.page} has no place <!-- checks --> … <!-- /checks -->.")
    made = table(read(given.files))
    atomic_write(given.page, PLACE.sub(lambda _: made, page).encode())
    return 0


def _seeds(lines: Sequence[Mapping[str, Any]]) -> str:
    """The seeds of all lines, or those of each where they differ."""
    sets = {tuple(made["seeds"]) for made in lines}
    if len(sets) != 1:
        return "seeds that differ from check to check"
    (seeds,) = sets
    if len(seeds) > 1 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def _those(what: str, slugs: Sequence[str]) -> str:
    """``what`` of how many claims, with the systems that they are of."""
    names = f" ({', '.join(f'`{slug}`' for slug in dict.fromkeys(slugs))})" if slugs else ""
    return f"{len(slugs) or 'none'} {what}{names}"


if __name__ == "__main__":
    raise SystemExit(main())
