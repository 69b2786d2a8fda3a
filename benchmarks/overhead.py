"""What an iteration costs beyond its network evaluations: iteration time / the same forward and backward
passes bare.

    python -m benchmarks.overhead [SLUG …] [--batch 32] [--rounds 9] [--threads 1]

One iteration's network calls are recorded (network, inputs, gradient mode, forward mode) and then replayed
bare: forward, backward where a graph was kept, nothing else. Iterations and replays alternate in one run; the
median of the pairwise ratios is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.common import table, trainers
from benchmarks.replay import again, recorded
from stillhouse.train.loop import Trainer


def ratio(run: Trainer, step: int) -> tuple[float, float]:
    """Seconds of one iteration, and that over its bare replay."""
    with recorded(run) as log:
        began = time.perf_counter()
        run.iterate(step)
        spent = time.perf_counter() - began
    began = time.perf_counter()
    again(log)
    bare = time.perf_counter() - began
    for module in [*run.modules.values(), run.teacher.denoiser]:
        module.requires_grad_(False)  # as the loop leaves them: each turn asks for its own
    return spent, spent / bare


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slug", nargs="*")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for slug, run in trainers(args.slug, args.batch):
        run.prepare()
        found = [ratio(run, step) for step in range(args.rounds + 1)][1:]  # the first one allocates
        ms = statistics.median(s for s, _ in found) * 1e3
        rows.append(
            {
                "system": slug,
                "ms / iteration": f"{ms:.0f}",
                "overhead": f"{statistics.median(r for _, r in found):.3f}",
            }
        )
        print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
