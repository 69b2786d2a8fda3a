"""Peak tensor memory of a run against what it cannot do without.

    python -m benchmarks.memory [SLUG …] [--batch 32]

The bytes of all live tensor storages are followed through an iteration (exact, and the same on every
machine). *Needed* is the weights of all players and copies, the gradients and optimiser states of those that
learn, and the activations of the network calls whose graphs one player's loss holds at once, each measured by
making that call alone.
"""

from __future__ import annotations

import argparse
import weakref
from collections import defaultdict

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.common import table, trainers
from benchmarks.replay import Asked, recorded
from stillhouse.train.loop import Trainer


class Live(TorchDispatchMode):
    """Bytes of the tensor storages made inside the block and still alive; ``peak`` is the most there ever
    were."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self._follow(leaf.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def activations(asked: Asked) -> int:
    """What one call holds when its forward pass is over (with its graph), or at its peak (without)."""
    with Live() as live:
        out = asked.forward()
        held = live.now if out is not None and out.requires_grad else 0
    return held if asked.graph else live.peak


def bytes_of(modules) -> int:
    """Bytes of all different weights."""
    return sum(
        {
            p.untyped_storage()._cdata: p.untyped_storage().nbytes() for m in modules for p in m.parameters()
        }.values()
    )


def measure(run: Trainer) -> dict[str, float]:
    """Megabytes: the weights, all that was needed, and the peak."""
    weights = bytes_of([run.teacher.denoiser, *run.modules.values()])
    run.prepare()
    busy = max(
        range(16), key=lambda step: (len(run.method.turns(step)), -step)
    )  # an iteration in which most players move
    for step in range(busy + 1):
        run.iterate(step)  # optimiser states are made when a player first moves
    with Live() as live:
        run.iterate(busy)
    with recorded(run) as log:
        run.iterate(busy)
    state = sum(
        v.numel() * v.element_size()
        for p in run.players.values()
        for s in p.optimiser.state.values()
        for v in s.values()
        if torch.is_tensor(v)
    )
    gradients = max(bytes_of([p.module]) for p in run.players.values())
    graphs: dict[str, int] = defaultdict(int)
    passing = 0
    for asked in log:
        if asked.graph:
            graphs[asked.turn] += activations(asked)
        elif not asked.forward_mode:
            passing = max(passing, activations(asked))
    mb = 1 / 2**20
    needed = weights + state + gradients + max([passing, *graphs.values()])
    return {"weights": weights * mb, "needed": needed * mb, "peak": (weights + state + live.peak) * mb}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slug", nargs="*")
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    rows = []
    for slug, run in trainers(args.slug, args.batch):
        found = measure(run)
        rows.append(
            {"system": slug}
            | {f"{k} (MB)": f"{v:.1f}" for k, v in found.items()}
            | {"peak / needed": f"{found['peak'] / found['needed']:.2f}"}
        )
        print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
