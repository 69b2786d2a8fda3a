"""A small training on an idle machine and beside others that work, with threads that spin as GNU OpenMP has
them and with those that soon sleep (``GOMP_SPINCOUNT=1000``, what the command line sets).

    python -m benchmarks.busy [--threads 2] [--busy 8] [--seconds 12]

Iterations in as many seconds, each in a process of its own, and their ratio to the idle machine's with
sleeping threads. Nothing else should work on the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.common import table

WAYS = {"GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"}, "OpenMP's own": {}}
OURS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def iterations(seconds: float, threads: int) -> int:
    """Iterations of `cm` on small pictures in this process, after the first few."""
    import torch

    from benchmarks.common import trainer

    torch.set_num_threads(threads)
    run = trainer("cm", 4, channels=(16,))
    run.prepare()
    for step in range(3):
        run.iterate(step)
    step, end = 3, time.perf_counter() + seconds
    while time.perf_counter() < end:
        run.iterate(step)
        step += 1
    return step - 3


def measured(way: dict[str, str], seconds: float, threads: int) -> int:
    """:func:`iterations` in a new process with these settings of the environment."""
    environment = {k: v for k, v in os.environ.items() if k not in OURS} | way
    words = [sys.executable, "-m", "benchmarks.busy", "--count", "--seconds", str(seconds)]
    done = subprocess.run(
        [*words, "--threads", str(threads)], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


@contextmanager
def workers(number: int) -> Iterator[None]:
    """Inside the block as many processes work without a pause."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=8, help="processes that work beside")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--count", action="store_true", help="print the iterations of this process alone")
    args = parser.parse_args()
    if args.count:
        print(iterations(args.seconds, args.threads))
        return
    rows: list[dict[str, str]] = []
    first = 0
    for beside in (0, args.busy):
        for name, way in WAYS.items():
            with workers(beside):
                made = measured(way, args.seconds, args.threads)
            first = first or made
            place = f"beside {beside} processes" if beside else "idle"
            ratio = f"{made / max(1, first):.3f}"
            rows.append({"machine": place, "threads": name, "iterations": str(made), "ratio": ratio})
            print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
