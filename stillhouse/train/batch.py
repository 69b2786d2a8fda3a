"""What a loss is given: one micro-batch, its random numbers, and what players share of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition, restored
from stillhouse.core.draws import Draws
from stillhouse.core.errors import required

T = TypeVar("T")


@dataclass
class Batch:
    """One micro-batch as a loss sees it. ``x`` (rows, *shape) is real data (None for a data-free run),
    ``cond`` its conditions."""

    step: int
    rows: int
    shape: tuple[int, ...]
    x: Tensor | None
    cond: Condition
    turns: tuple[str, ...]
    stream: Callable[[str], Draws]
    bank: Callable[[Draws], dict[str, Tensor]] | None = None
    player: str = ""
    memo: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, float] = field(default_factory=dict)
    within: int = 0  # the iteration's number within its stage
    parts: Callable[[str], tuple[Tensor | None, Condition]] | None = None
    views: Callable[[str], Tensor] | None = None

    @property
    def data(self) -> Tensor:
        """``x``, for a method that cannot do without."""
        return required(self.x, "This method learns from real data; give it some (a world or a data folder).")

    @property
    def draws(self) -> Draws:
        """The random numbers of the player whose turn it is."""
        return self._once(self.player, lambda: self.stream(self.player))

    def noise(self) -> Tensor:
        """Standard normal noise (rows, *shape)."""
        return self.draws.normal(*self.shape)

    def times(self, low: float, high: float) -> Tensor:
        """Uniform times, from the draws of the player whose turn it is.

        Arguments:
            low: the smallest, included.
            high: the largest, not included.

        Returns:
            Times in [low, high), (rows,).
        """
        return self.draws.uniform(low, high)

    def stored(self) -> dict[str, Any]:
        """Rows drawn from the bank that :meth:`Method.bank_rows` filled; their condition, if there is one,
        under ``cond``."""
        assert self.bank is not None, "this method declared no bank"
        return restored(self.bank(self.draws))

    def of(self, part: str) -> tuple[Tensor | None, Condition]:
        """As many rows of another part of the data, with their conditions: of one that
        :attr:`Method.reads_parts` names, see :class:`~stillhouse.train.data.Several`."""
        parts = self.parts
        assert parts is not None, "this run's data has one part"
        return self._once(f"part {part}", lambda: parts(part))

    def view(self, name: str) -> Tensor:
        """Another view of the batch's rows, such as an augmentation, in their order: one that
        :attr:`Method.reads_views` names, see :class:`~stillhouse.train.data.Several`."""
        views = self.views
        assert views is not None, "this run's data has no further views"
        return self._once(f"view {name}", lambda: views(name))

    def _once(self, key: str, make: Callable[[], T]) -> T:
        if key not in self.memo:
            self.memo[key] = make()
        made: T = self.memo[key]
        return made

    def log(self, name: str, value: Tensor | float) -> None:
        """Show ``value`` in the journal under ``player/name``.

        Arguments:
            name: without the player, which is the one whose turn it is.
            value: one number; a tensor of one element is detached.
        """
        self.logs[f"{self.player}/{name}"] = float(value.detach() if torch.is_tensor(value) else value)


def shared(make: Callable[[Any, Batch], T]) -> Callable[[Any, Batch], T]:
    """What the student made in one iteration, a tensor or a dataclass of them: made once, used by every
    player.

    They carry the student's gradient only if it is among the iteration's turns, and only it is given them
    with a graph.
    """
    key = f"shared/{make.__name__}"

    @functools.wraps(make)
    def once(self: Any, batch: Batch) -> T:
        if key not in batch.memo:
            asking, batch.player = batch.player, "samples"
            with learning(self.players["student"], "student" in batch.turns):
                batch.memo[key] = make(self, batch)
            batch.player = asking
        made: T = batch.memo[key]
        if batch.player == "student":
            batch.memo[key] = detached(made)  # its graph is spent with the student's turn
            return made
        return detached(made)

    return once


def detached(made: T) -> T:
    """A tensor, or a dataclass of tensors and other things, without its graph."""
    if isinstance(made, Tensor):
        return made.detach()  # type: ignore[return-value]
    assert dataclasses.is_dataclass(made) and not isinstance(made, type)
    values = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    return replace(made, **{k: v.detach() if torch.is_tensor(v) else v for k, v in values.items()})


class learning:
    """Inside the block the parameters of a module learn, or nothing is traced; afterwards they are as before.

    Arguments:
        module: all of its parameters are switched.
        on: whether they learn; False also switches autograd off.
    """

    def __init__(self, module: nn.Module, on: bool):
        self.parameters, self.on = list(module.parameters()), on

    def __enter__(self) -> None:
        self.were = [p.requires_grad for p in self.parameters]
        for p in self.parameters:
            p.requires_grad_(self.on)
        self.mode = torch.set_grad_enabled(self.on)
        self.mode.__enter__()

    def __exit__(self, *_: object) -> None:
        self.mode.__exit__(*_)
        for p, was in zip(self.parameters, self.were, strict=True):
            p.requires_grad_(was)
