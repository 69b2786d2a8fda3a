"""Where a run's data comes from. The rows of an iteration follow from its number alone, so a resumed run sees
what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from stillhouse.core.conditions import (
    Condition,
    balanced_labels,
    cycled,
    flattened,
    move,
    pick,
    require_condition,
    size,
)
from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.core.structure import shown
from stillhouse.model import Model


class Data(Protocol):
    """Rows for training: real samples with their conditions, or conditions alone. ``classes``: of labels, 0
    for any other condition."""

    shape: tuple[int, ...]
    classes: int

    def rows(self, start: int, draws: Draws) -> tuple[Tensor | None, Condition]:
        """The rows of one process in one global batch; they follow from ``start`` and ``draws`` alone.

        Arguments:
            start: samples that the whole run has used before.
            draws: the source of randomness, for ``draws.rows`` rows.

        Returns:
            Samples (rows, *shape), None for a data-free run; and their condition, None for none; both on the
            device of ``draws``.
        """
        ...

    def examples(self, n: int) -> Condition:
        """``n`` conditions to look at the student with; None for data without conditions."""
        ...


def _not_finite(rows: Tensor) -> list[int]:
    """Numbers of the rows that hold a value that is NaN or infinite."""
    found: list[int] = (~torch.isfinite(rows.reshape(len(rows), -1)).all(1)).nonzero().flatten().tolist()
    return found


def require_rows(data: object, source: str) -> None:
    """Refuse what are no samples with their conditions.

    Arguments:
        data: ``(x, cond)``, see :class:`TensorData`.
        source: begins the sentence.

    Raises:
        StillhouseError: for another number of parts, another type, and rows of no or mixed numbers.
    """
    pair: tuple[Any, ...] = data if isinstance(data, tuple) and len(data) == 2 else (None, None)
    x, cond = pair
    require(
        isinstance(x, Tensor) and x.dim() >= 1 and not x.is_complex() and x.dtype != torch.bool,
        f"{source}: data in memory is (x, cond), of which x is a tensor of numbers (N, …), not {shown(x)}.",
    )
    require_condition(cond, f"{source}: the condition of data in memory")


class TensorData:
    """A finite set in memory, reshuffled every epoch.

    Arguments:
        x: samples, (N, *shape) float32, all finite.
        cond: labels (N,) in 0 … classes - 1, any other condition of N rows; None for none.
        classes: of labels; 0 for any other condition.
        seed: of the order.
    """

    def __init__(self, x: Tensor, cond: Condition = None, classes: int = 0, seed: int = 0):
        require_rows((x, cond), "The data can't be used")
        require(len(x) > 0, "The data set is empty.")
        if bad := _not_finite(x):
            raise StillhouseError(
                f"The data holds NaN or infinite values (first in sample {bad[0]}); clean it first."
            )
        require(
            cond is None or size(cond) == len(x),
            f"There are {len(x)} samples but {size(cond)} "
            f"{'labels' if torch.is_tensor(cond) else 'conditions'}.",
        )
        for part in flattened(cond).values():
            if bad := _not_finite(part):
                raise StillhouseError(
                    f"The conditions hold NaN or infinite values (first in row {bad[0]}); clean them first."
                )
        if torch.is_tensor(cond) and not cond.is_floating_point():
            require(
                int(cond.min()) >= 0 and int(cond.max()) < classes,
                f"Labels must lie in 0 … {classes - 1}; found {int(cond.min())} … {int(cond.max())}.",
            )
        self.x, self.cond, self.classes, self.seed, self.shape = x, cond, classes, seed, tuple(x.shape[1:])
        self._order: tuple[int, Tensor] | None = None

    def _epoch(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
            self._order = epoch, torch.randperm(len(self.x), generator=generator)
        return self._order[1]

    def index(self, start: int, draws: Draws) -> Tensor:
        """Which rows of the set :meth:`rows` gives.

        Arguments:
            start: samples that the whole run has used before.
            draws: how many rows, and of which process; no random number is drawn.

        Returns:
            Row numbers, (rows,) int64.
        """
        first, n = start + draws.rank * draws.rows, len(self.x)
        where = torch.arange(first, first + draws.rows)
        return torch.cat(
            [self._epoch(int(e))[where[where // n == e] % n] for e in torch.unique_consecutive(where // n)]
        )

    def rows(self, start: int, draws: Draws) -> tuple[Tensor, Condition]:
        """The next rows in the order of the epoch.

        Arguments:
            start: samples that the whole run has used before.
            draws: how many rows, of which process, on which device; no random number is drawn.

        Returns:
            Samples (rows, *shape) and their condition, None for none.
        """
        index = self.index(start, draws)
        return self.x[index].to(draws.device), move(pick(self.cond, index), draws.device)

    def examples(self, n: int) -> Condition:
        return balanced_labels(n, self.classes) if self.classes else cycled(self.cond, n)


class NoData:
    """A data-free run: conditions drawn uniformly among the classes, no samples."""

    def __init__(self, shape: tuple[int, ...], classes: int = 0):
        self.shape, self.classes = shape, classes

    def rows(self, start: int, draws: Draws) -> tuple[None, Condition]:
        """Labels alone, drawn uniformly.

        Arguments:
            start: without effect.
            draws: the source of randomness, for ``draws.rows`` rows.

        Returns:
            None, and labels (rows,) int64; None where there are no classes.
        """
        return None, draws.integers(0, self.classes) if self.classes else None

    def examples(self, n: int) -> Condition:
        return balanced_labels(n, self.classes)


class Prompts:
    """A data-free run over a bank of conditions, drawn with replacement.

    Arguments:
        shape: of one sample.
        bank: a condition of N rows.
        held_out: conditions for samples of the student; None: the bank's.
    """

    classes = 0

    def __init__(self, shape: tuple[int, ...], bank: Condition, held_out: Condition = None):
        require(bool(size(bank)), "There are no prompts to learn from.")
        self.shape, self.bank, self.held_out = shape, bank, bank if held_out is None else held_out

    def rows(self, start: int, draws: Draws) -> tuple[None, Condition]:
        """Conditions of the bank alone, drawn with replacement.

        Arguments:
            start: without effect.
            draws: the source of randomness, for ``draws.rows`` rows.

        Returns:
            None, and the condition of the rows.
        """
        return None, move(pick(self.bank, draws.integers(0, size(self.bank) or 1)), draws.device)

    def examples(self, n: int) -> Condition:
        return cycled(self.held_out, n)


def conditions_of(world: Any, labels: Tensor | None, model: Model | None = None) -> Condition:
    """The condition under which a model makes samples of a world's labels.

    Arguments:
        world: whose captions or conditions the labels stand for.
        labels: numbers of classes, (B,), -1 for no class; None: no condition.
        model: one that is a Diffusers pipeline encodes the captions itself; None: the world's own condition.

    Returns:
        The condition of B rows; None for none.
    """
    if labels is None or model is None or model.pipeline is None or model.text is None:
        cond: Condition = world.condition(labels)
        return cond
    return model.text.encode([world.captions[i] if i >= 0 else "" for i in labels.tolist()])


View = Callable[[Tensor, Draws], Tensor]


class Several:
    """A data set with more to read: parts for players of their own, and further views of each row.

    Arguments:
        main: whose rows a batch's ``x`` and ``cond`` are.
        parts: by name, data sets of the same shape or another that :meth:`Batch.of` reads on their own.
        views: by name, what :meth:`Batch.view` makes of the rows ``x`` (rows, *shape) and random numbers of
            its own; or a tensor of one entry for each row of ``main``, a :class:`TensorData`, in its order.
    """

    def __init__(
        self,
        main: Data,
        parts: Mapping[str, Data] | None = None,
        views: Mapping[str, View | Tensor] | None = None,
    ):
        self.main, self.parts, self.views = main, dict(parts or {}), dict(views or {})
        self.shape, self.classes = main.shape, main.classes
        for name, view in self.views.items():
            if torch.is_tensor(view):
                require(
                    isinstance(main, TensorData) and len(view) == len(main.x),
                    f"The view '{name}' has {len(view)} entries; a tensor has one for each row of data in "
                    "memory.",
                )

    def rows(self, start: int, draws: Draws) -> tuple[Tensor | None, Condition]:
        """The rows of ``main``.

        Arguments:
            start: samples that the whole run has used before.
            draws: the source of randomness, for ``draws.rows`` rows.

        Returns:
            Samples (rows, *shape) and their condition, as ``main`` gives them.
        """
        return self.main.rows(start, draws)

    def examples(self, n: int) -> Condition:
        return self.main.examples(n)

    def view(self, name: str, x: Tensor | None, start: int, draws: Draws) -> Tensor:
        """A further view of rows.

        Arguments:
            name: of the view.
            x: the rows that :meth:`rows` gave for ``start``, (rows, *shape); None where the data has
                conditions alone.
            start: samples that the whole run has used before.
            draws: randomness of the view's own, for as many rows.

        Returns:
            The view of the rows, in their order, (rows, …).
        """
        view = self.views[name]
        if torch.is_tensor(view):
            assert isinstance(self.main, TensorData)
            return view[self.main.index(start, draws)].to(draws.device)
        return view(required(x, f"There are no samples to make the view '{name}' of."), draws)


class InfiniteData:
    """A world that draws fresh samples.

    Arguments:
        world: whose samples they are.
        labelled: with their conditions.
        model: a pipeline, whose latents and text encoding the data is given in; None: the world's own.
    """

    def __init__(self, world: Any, labelled: bool = False, model: Model | None = None):
        self.world, self.labelled, self.classes, self.model = (
            world,
            labelled,
            world.classes if labelled else 0,
            model,
        )
        self.codec = None if model is None else model.codec
        self.shape = tuple(world.shape if model is None or self.codec is None else model.shape)

    def rows(self, start: int, draws: Draws) -> tuple[Tensor, Condition]:
        """Fresh samples of the world; a pipeline's are latents, under its encoding of their captions.

        Arguments:
            start: without effect.
            draws: the source of randomness, for ``draws.rows`` rows.

        Returns:
            Samples (rows, *shape), and their condition; None where the data is not labelled.
        """
        x, labels = self.world.sample_data(draws.rows, draws)
        x = x if self.codec is None else self.codec.encode(x)
        if not self.labelled:
            return x, None
        cond = move(conditions_of(self.world, labels, self.model), draws.device)
        return x if self.model is None else self.model.denoiser.process.to_state(x, cond), cond

    def examples(self, n: int) -> Condition:
        if not self.labelled:
            return None
        labels = self.world.balanced_labels(n, self.world.shown_split)
        return conditions_of(self.world, labels, self.model)
