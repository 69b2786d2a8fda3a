"""Writing down every network call of an iteration, to make the same calls again bare."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.denoiser import Denoiser
from stillhouse.models.taps import Reached, transformed, until
from stillhouse.parts.targets.tangent import tangent
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
    turn: str  # the player that was learning

    until: nn.Module | None = None  # the submodule whose output was all that was wanted

    def forward(self) -> Tensor | None:
        """The same forward pass; what it gives has a graph if there was one."""
        self.net.requires_grad_(self.weights)
        if self.forward_mode:
            with torch.no_grad():
                tangent(lambda x: self.call(self.net, x, *self.rest, **self.extra), (self.x,), (self.x,))
            return None
        with torch.set_grad_enabled(self.graph):
            x = self.x.detach().requires_grad_(self.graph and self.state)
            if self.until is None:
                return self.call(self.net, x, *self.rest, **self.extra)
            return until(self.until, lambda: self.call(self.net, x, *self.rest, **self.extra))


def again(log: list[Asked]) -> None:
    """All passes bare: the forward passes of each player's turn, then the backward passes of the graphs that
    it held."""
    for _, turn in itertools.groupby(log, lambda asked: asked.turn):
        calls = list(turn)
        held = [out for out in [asked.forward() for asked in calls] if out is not None and out.requires_grad]
        if held:
            torch.autograd.backward([out.sum() for out in held])
        for asked in calls:
            asked.net.zero_grad(set_to_none=True)


class Recorder:
    """Stands in for a denoiser's ``call`` and writes down what it was asked."""

    def __init__(self, call: Callable[..., Tensor], log: list[Asked], run: Trainer):
        self.call, self.log, self.run = call, log, run

    def __call__(self, net: nn.Module, x: Tensor, *rest: Any, **extra: Tensor) -> Tensor:
        forward_mode = transformed(x)
        plain = [unwrapped(v) if torch.is_tensor(v) else v for v in (x, *rest)]
        weights = next(net.parameters()).requires_grad
        graph = torch.is_grad_enabled() and not forward_mode
        extra_plain = {k: unwrapped(v) for k, v in extra.items()}
        turn = next((name for name, p in self.run.players.items() if p.parameters[0].requires_grad), "")
        asked = Asked(
            net,
            plain[0],
            tuple(plain[1:]),
            extra_plain,
            self.call,
            graph,
            weights,
            x.requires_grad,
            forward_mode,
            turn,
        )
        self.log.append(asked)
        try:
            return self.call(net, x, *rest, **extra)
        except Reached as reached:
            asked.until = reached.submodule
            raise


def unwrapped(v: Tensor) -> Tensor:
    """The plain values of a tensor that a transform may have wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(v):
        v = torch._C._functorch.get_unwrapped(v)
    return torch.autograd.forward_ad.unpack_dual(v).primal.detach()


@contextmanager
def recorded(run: Trainer) -> Iterator[list[Asked]]:
    """Inside the block every network call of ``run`` is appended to the list that it gives."""
    log: list[Asked] = []
    denoisers = {
        id(d): d
        for m in [run.teacher.denoiser, *run.modules.values()]
        for d in m.modules()
        if isinstance(d, Denoiser)
    }
    plain = {k: d.call for k, d in denoisers.items()}
    for d in denoisers.values():
        d.call = Recorder(d.call, log, run)
    try:
        yield log
    finally:
        for k, d in denoisers.items():
            d.call = plain[k]
