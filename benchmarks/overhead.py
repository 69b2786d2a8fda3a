"""What an iteration costs beyond its network evaluations: iteration time / the same forward and backward passes bare.

    python -m benchmarks.overhead [SLUG …] [--batch 32] [--rounds 9] [--threads 1]

One iteration's network calls are recorded (network, inputs, gradient mode, forward mode) and then replayed bare: forward, backward where a graph
was kept, nothing else. Iterations and replays alternate in one run; the median of the pairwise ratios is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import slugs, table, trainer
from stillhouse.denoiser import Denoiser
from stillhouse.models.taps import transformed
from stillhouse.train.loop import Trainer


@dataclass
class Asked:
    """One call of one network."""

    net: nn.Module
    x: Tensor
    rest: tuple[Any, ...]
    extra: dict[str, Tensor]
    call: Callable[..., Tensor]
    graph: bool
    weights: bool
    state: bool
    forward_mode: bool

    def again(self) -> None:
        """The same forward pass, and the backward pass if a graph was kept."""
        self.net.requires_grad_(self.weights)
        if self.forward_mode:
            with torch.no_grad():
                torch.func.jvp(lambda x: self.call(self.net, x, *self.rest, **self.extra), (self.x,), (self.x,))
            return
        with torch.set_grad_enabled(self.graph):
            x = self.x.detach().requires_grad_(self.graph and self.state)
            out = self.call(self.net, x, *self.rest, **self.extra)
            if out.requires_grad:
                out.sum().backward()
        self.net.zero_grad(set_to_none=True)


class Recorder:
    """Stands in for a denoiser's ``call`` and writes down what it was asked."""

    def __init__(self, call: Callable[..., Tensor], log: list[Asked]):
        self.call, self.log = call, log

    def __call__(self, net: nn.Module, x: Tensor, *rest: Any, **extra: Tensor) -> Tensor:
        forward_mode = transformed(x)
        plain = [unwrapped(v) if torch.is_tensor(v) else v for v in (x, *rest)]
        weights = next(net.parameters()).requires_grad
        graph = torch.is_grad_enabled() and not forward_mode
        extra_plain = {k: unwrapped(v) for k, v in extra.items()}
        self.log.append(Asked(net, plain[0], tuple(plain[1:]), extra_plain, self.call, graph, weights, x.requires_grad, forward_mode))
        return self.call(net, x, *rest, **extra)


def unwrapped(v: Tensor) -> Tensor:
    """The plain values of a tensor that a transform may have wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(v):
        v = torch._C._functorch.get_unwrapped(v)
    return torch.autograd.forward_ad.unpack_dual(v).primal.detach()


def ratio(run: Trainer, step: int) -> tuple[float, float]:
    """Seconds of one iteration, and that over its bare replay."""
    log: list[Asked] = []
    denoisers = {id(d): d for m in [run.teacher.denoiser, *run.modules.values()] for d in m.modules() if isinstance(d, Denoiser)}
    plain = {k: d.call for k, d in denoisers.items()}
    for d in denoisers.values():
        d.call = Recorder(d.call, log)
    began = time.perf_counter()
    run._iterate(step)
    spent = time.perf_counter() - began
    for k, d in denoisers.items():
        d.call = plain[k]
    learning = {id(p): p.requires_grad for m in run.modules.values() for p in m.parameters()}
    began = time.perf_counter()
    for asked in log:
        asked.again()
    bare = time.perf_counter() - began
    for m in run.modules.values():
        for p in m.parameters():
            p.requires_grad_(learning[id(p)])
    run.teacher.denoiser.requires_grad_(False)
    return spent, spent / bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug", nargs="*")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for slug in slugs(args.slug):
        run = trainer(slug, args.batch)
        run.prepare()
        found = [ratio(run, step) for step in range(args.rounds + 1)][1:]  # the first one allocates
        ms = statistics.median(s for s, _ in found) * 1e3
        rows.append({"system": slug, "ms / iteration": f"{ms:.0f}", "overhead": f"{statistics.median(r for _, r in found):.3f}"})
        print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
