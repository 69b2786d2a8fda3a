"""What a network is conditioned on: nothing, labels, tokens, or a dict of tensors; and the few operations on
all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from stillhouse.core.errors import require, required_type
from stillhouse.core.structure import shown

# Several tensors by name (tokens, mask, image, ...), each with a leading batch dimension
Parts: TypeAlias = dict[str, Tensor]
# None; labels (B,), int64, -1 for none; tokens (B, L, C); or parts
Condition: TypeAlias = None | Tensor | Parts
# What a user may give for one as well: one label for all, a prompt, or a list of prompts
ConditionLike: TypeAlias = Condition | int | str | list[str] | tuple[str, ...]
# A function of a condition gives back one of the same form
CondT = TypeVar("CondT", None, Tensor, Parts, Tensor | None, Condition)


class TextEncoder(Protocol):
    """What turns prompts into conditions. An empty string gives the unconditional one."""

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One condition for all ``prompts``, batch first."""
        ...


def as_parts(cond: Condition) -> Parts:
    """A condition that must be a dict of tensors. Raises :class:`StillhouseError` for one tensor, and for
    None."""
    return required_type(cond, dict, "This takes a dict of tensors as a condition, not one tensor or none.")


def as_tensor(cond: Condition) -> Tensor:
    """A condition that must be one tensor, labels or tokens. Raises :class:`StillhouseError` for a dict, and
    for None."""
    return required_type(cond, Tensor, "This takes one tensor as a condition, not a dict or none.")


def apply(f: Callable[[Tensor], Tensor], cond: CondT) -> CondT:
    """``f`` on every tensor of a condition.

    Arguments:
        f: maps one tensor to another, such as an index or a move.
        cond: the condition of B rows; None for none.

    Returns:
        The condition in the same form; None for none.
    """
    if cond is None:
        return None
    if isinstance(cond, Tensor):
        return f(cond)
    return {name: f(part) for name, part in cond.items()}


def require_condition(cond: object, source: str) -> None:
    """Refuse what is no condition: None, a tensor (B, …), or a dict of such with equally many rows.

    Arguments:
        cond: as it was given.
        source: what it is of, begins the sentence.

    Raises:
        StillhouseError: for another type, an empty dict, complex values and unequal parts.
    """
    parts: dict[Any, Any] = cond if isinstance(cond, dict) else {} if cond is None else {"cond": cond}
    sound = all(isinstance(p, Tensor) and p.dim() >= 1 and not p.is_complex() for p in parts.values())
    require(
        sound and bool(parts or cond is None),
        f"{source} is None, a tensor (B, …) or a dict of such, not {shown(cond)}.",
    )
    counts = sorted({len(part) for part in parts.values()})
    require(len(counts) <= 1, f"{source} has parts of {' and '.join(map(str, counts))} rows.")


def size(cond: Condition) -> int | None:
    """The number of rows; None for no condition."""
    return None if cond is None else len(next(iter(cond.values())) if isinstance(cond, dict) else cond)


def pick(cond: CondT, index: Tensor | slice) -> CondT:
    """Rows of a condition.

    Arguments:
        cond: the condition of B rows; None for none.
        index: integers (N,), a mask (B,) of bool, or a slice; on the CPU or where the condition lies.

    Returns:
        The condition of the rows picked, in order; None for none.
    """
    return apply(lambda part: part[index.to(part.device) if torch.is_tensor(index) else index], cond)


def move(cond: CondT, device: torch.device | str) -> CondT:
    """The condition on ``device``.

    Arguments:
        cond: a condition; None for none.
        device: where its tensors go.

    Returns:
        The condition in the same form; None for none.
    """
    return apply(lambda part: part.to(device), cond)


def expand(cond: CondT, n: int) -> CondT:
    """One row made ``n``, without copying.

    Arguments:
        cond: a condition of one row; None for none.
        n: number of rows.

    Returns:
        The condition of ``n`` equal rows, which share memory; None for none.
    """
    return apply(lambda part: part.expand(n, *part.shape[1:]), cond)


def join(conds: Sequence[CondT]) -> CondT:
    """Conditions of one form, one after the other."""
    first = conds[0]
    if first is None:
        require(all(c is None for c in conds), "Rows with and without a condition can't be joined.")
        return None
    mixed = "Conditions of different forms can't be joined."
    if isinstance(first, Tensor):
        return torch.cat([required_type(c, Tensor, mixed) for c in conds])
    return {name: torch.cat([required_type(c, dict, mixed)[name] for c in conds]) for name in first}


def drop_condition(cond: Condition, dropped: Tensor | bool, empty: Condition = None) -> Condition:
    """The condition, the empty one in the place of rows that are dropped.

    Arguments:
        cond: the condition of B rows; None for none.
        dropped: which rows lose their condition, bool (B,); or one bool for all of them.
        empty: the empty condition, one row; None for our own networks, whose empty condition is label -1 and
            a mask without a True.

    Returns:
        A condition of B rows; None where ``dropped`` is True for all of them, and where ``cond`` is None.
        Where ``dropped`` is a tensor and ``empty`` None, a tensor of tokens becomes a dict with a mask.
    """
    if cond is None or dropped is True:
        return None
    if dropped is False:
        return cond

    def choose(part: Tensor, instead: Tensor) -> Tensor:
        gone = dropped.to(part.device).reshape(-1, *[1] * (part.dim() - 1))
        return torch.where(gone, instead.to(part), part)

    if empty is not None:
        if not isinstance(cond, dict):
            return choose(cond, as_tensor(empty))
        instead = as_parts(empty)
        return {name: choose(part, instead[name]) for name, part in cond.items()}
    if isinstance(cond, dict):
        tokens, none = cond.get("tokens"), {"label": torch.tensor(-1), "mask": torch.tensor(False)}
        mask = (
            {}
            if tokens is None
            else {"mask": torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)}
        )
        return {k: choose(v, none[k]) if k in none else v for k, v in {**mask, **cond}.items()}
    if cond.is_floating_point():
        return drop_condition({"tokens": cond}, dropped)
    return choose(cond, torch.tensor(-1))


def flattened(cond: Condition, name: str = "cond") -> dict[str, Tensor]:
    """The condition as named tensors, to be stored beside others.

    Arguments:
        cond: a condition; None for none.
        name: what the tensors are called: ``cond``, or ``cond.tokens`` and the like for the parts of a dict.

    Returns:
        The tensors by name; empty for no condition.
    """
    if cond is None:
        return {}
    return {f"{name}.{key}": part for key, part in cond.items()} if isinstance(cond, dict) else {name: cond}


def restored(tensors: dict[str, Tensor], name: str = "cond") -> dict[str, Any]:
    """The inverse of :func:`flattened`.

    Arguments:
        tensors: tensors by name, those of the condition among others.
        name: what the condition is called among them.

    Returns:
        ``tensors`` with the parts of a dict put together under ``name``, which is missing if there were none.
    """
    parts = {
        key.removeprefix(f"{name}."): part for key, part in tensors.items() if key.startswith(f"{name}.")
    }
    rest: dict[str, Any] = {key: part for key, part in tensors.items() if not key.startswith(f"{name}.")}
    return {**rest, name: parts} if parts else rest


def cycled(cond: CondT, n: int) -> CondT:
    """The first ``n`` rows of a condition, from the start again where there are fewer.

    Arguments:
        cond: the condition of B >= 1 rows; None for none.
        n: number of rows.

    Returns:
        The condition of ``n`` rows; None for none.
    """
    return None if cond is None else pick(cond, torch.arange(n) % (size(cond) or 1))


def balanced_labels(n: int, classes: int) -> Tensor | None:
    """``n`` labels spread evenly over the classes.

    Arguments:
        n: number of labels.
        classes: number of classes; 0 for none.

    Returns:
        ``0, 1, …, classes - 1, 0, …``, int64 (n,) on the CPU; None without classes.
    """
    return torch.arange(n) % classes if classes else None


def require_labels(labels: Tensor, classes: int = 0) -> None:
    """Refuse labels by which samples can't be measured: -1, which stands for none, and numbers of no class.

    Arguments:
        labels: one a sample, (B,).
        classes: number of classes, captions or conditions; 0 where it isn't known.
    """
    if not labels.numel():
        return
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0,
        f"Samples are measured under labels from 0 on, not {low}; leave out the rows without a label, or all "
        "labels.",
    )
    require(not classes or high < classes, f"Labels lie in 0 … {classes - 1}, not {high}.")
