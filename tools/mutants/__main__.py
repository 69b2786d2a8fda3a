"""Put small slips into the code, one at a time, and see whether a test fails:

python -m tools.mutants                                     300 of systems, parts and core
python -m tools.mutants stillhouse/core/process.py --all    every one of a file
python -m tools.mutants stillhouse/parts/gaps --all --tests tests/parts/gaps
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tools.mutants import equivalent
from tools.mutants.code import Code
from tools.mutants.covering import Covered, coverage, covering, test_files
from tools.mutants.forked import TIMED_OUT, Job, Mutated, prepare, run_all, run_tests
from tools.mutants.slips import Mutant, mutants

PATHS = ["stillhouse/systems", "stillhouse/parts", "stillhouse/core"]
TESTS = [f"tests/{name}" for name in "core parts systems solvers samplers train worlds checks".split()]
ENOUGH = 0.95
NO_TESTS = 5  # pytest's status where nothing was run


def main(words: Sequence[str] | None = None) -> int:
    """The command; 1 where the score is below 95 %, or an entry of the list of equivalent ones is out of
    date."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", default=PATHS, help="files and folders that get slips")
    parser.add_argument("--count", type=int, default=300, help="how many slips, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="every slip")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="test files and folders")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests outside the own folder")
    parser.add_argument("--list", action="store_true", help="print the slips and run nothing")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the tree (here)")
    given = parser.parse_args(words)
    root = given.root.resolve()
    for path in (*given.paths, *given.tests):
        if not (root / path).exists():
            parser.error(f"There is no '{path}' in {root}.")
    codes = {file: Code.read(root, file) for file in sources(root, given.paths)}
    everything = [mutant for code in codes.values() for mutant in mutants(code)]
    chosen = everything if given.all else draw(everything, given.count, given.seed)
    if given.list:
        print("\n".join(map(described, chosen)))
        return 0
    listed = equivalent.read(root / equivalent.LIST)
    stale = equivalent.stale(listed, everything)
    for entry in stale:
        print(f"equivalent.toml: no such mutant of {entry.file} {entry.function}: {entry.new}")
    known = {id(mutant) for mutant in chosen if any(entry.matches(mutant) for entry in listed)}
    ends: dict[int, str] = {id(mutant): "equivalent" for mutant in chosen if id(mutant) in known}
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        scratch = Path(folder)
        prepare(root, scratch)
        tests, failed = coverage(test_files(root, given.tests), root, given.jobs, scratch / "coverage")
        for name, text in failed.items():
            print(f"left out, for it fails without a slip: {name}\n{text}", file=sys.stderr)
        others = [mutant for mutant in chosen if id(mutant) not in known]
        for mutant, end in judged(others, codes, tests, root, given.jobs, given.budget, scratch / "runs"):
            ends[id(mutant)] = end
            if end in ("live", "not run"):
                note = "" if end == "live" else " (no test runs it)"
                print(f"{described(mutant)}{note}", flush=True)
            shown = sum(end != "equivalent" for end in ends.values())
            if sys.stderr.isatty():
                print(f"\r{shown}/{len(others)} ", end="", file=sys.stderr, flush=True)
    rows = list(table([(mutant, ends[id(mutant)]) for mutant in chosen]))
    print("\n".join(rows))
    return int(score(list(ends.values())) < ENOUGH or bool(stale))


def sources(root: Path, paths: Iterable[str]) -> list[str]:
    """The source files among files and folders, from the root."""
    found: list[Path] = []
    for path in paths:
        at = root / path
        found += sorted(at.rglob("*.py")) if at.is_dir() else [at]
    return list(dict.fromkeys(str(file.resolve().relative_to(root)) for file in found))


def draw(everything: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants by a seed, in the order of their files."""
    order = random.Random(seed).sample(range(len(everything)), min(count, len(everything)))
    return [everything[n] for n in sorted(order)]


def judged(
    chosen: Iterable[Mutant],
    codes: dict[str, Code],
    tests: dict[str, Covered],
    root: Path,
    at_once: int,
    budget: float,
    scratch: Path,
) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with its end: killed, timed out, live, or not run where no test covers it."""
    jobs, idle = [], []
    for mutant in chosen:
        names = covering(mutant, tests, budget)
        if names:
            seconds = sum(tests[name].seconds for name in names)
            jobs.append((mutant, names, 3 * seconds + 60))
        else:
            idle.append(mutant)
    yield from ((mutant, "not run") for mutant in idle)

    def work(mutant: Mutant, names: list[str], folder: Path) -> int:
        source = mutant.source(codes[mutant.file].data)
        compile(source, mutant.file, "exec")
        sys.meta_path.insert(0, Mutated(root, mutant.file, source))
        own = Path(names[0].partition("::")[0]).parent
        first = [name for name in names if Path(name.partition("::")[0]).parent == own]
        rest = [name for name in names if name not in set(first)]
        status = run_tests(first, folder)
        return run_tests(rest, folder) if status == 0 and rest else status

    forks = (
        Job(mutant, lambda folder, m=mutant, n=names: work(m, n, folder), limit)  # type: ignore[misc]
        for mutant, names, limit in jobs
    )
    for job, status, folder in run_all(forks, at_once, scratch):
        if status in (NO_TESTS, 70):
            raise SystemExit(f"{described(job.key)}\n{(folder / 'output').read_text()}")
        yield job.key, "live" if status == 0 else "timed out" if status == TIMED_OUT else "killed"


def described(mutant: Mutant) -> str:
    """A mutant in three lines: where, what kind, and the line before and after."""
    return (
        f"{mutant.file}:{mutant.line} {mutant.kind} in {mutant.function}\n  - {mutant.old}\n  + {mutant.new}"
    )


def score(ends: Sequence[str]) -> float:
    """The share of killed mutants among those that are not equivalent; 1 where there is none."""
    counted = Counter(ends)
    total = len(ends) - counted["equivalent"]
    return (counted["killed"] + counted["timed out"]) / total if total else 1.0


def table(ends: Sequence[tuple[Mutant, str]]) -> Iterator[str]:
    """A row a folder, and one of all."""
    folders: dict[str, list[str]] = {}
    for mutant, end in ends:
        folders.setdefault(str(Path(mutant.file).parent), []).append(end)
    width = max([len("all"), *map(len, folders)])
    yield f"{'folder':{width}}  mutants  equivalent  killed  (by time)  live  score"
    for folder, found in (*sorted(folders.items()), ("all", [end for _, end in ends])):
        c = Counter(found)
        killed, live = c["killed"] + c["timed out"], c["live"] + c["not run"]
        counts = f"{len(found):7}  {c['equivalent']:10}  {killed:6}  {c['timed out']:9}  {live:4}"
        yield f"{folder:{width}}  {counts}  {100 * score(found):4.1f}%"


if __name__ == "__main__":
    raise SystemExit(main())
