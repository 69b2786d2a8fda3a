"""Several networks of which each condition has its own, as one network; and the partitions that decide
which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition, pick
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.models.taps import Network


def pooled(cond: Condition) -> Tensor:
    """One vector (B, C) for each prompt: its tokens' mean, those under the mask alone where there is one."""
    tokens = cond.get("tokens") if isinstance(cond, dict) else cond
    if not torch.is_tensor(tokens) or tokens.dim() != 3:
        raise StillhouseError("Prompts are parted by their embedded tokens, and this condition has none.")
    mask = cond.get("mask") if isinstance(cond, dict) else None
    if mask is None:
        return tokens.mean(1)
    weight = mask.to(tokens)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)


def _blocks(by: Mapping[str, Any], cond: Condition) -> Tensor:
    """Consecutive labels in equal blocks; a label of -1, which is none, goes to the first."""
    labels = cond.get("label") if isinstance(cond, dict) else cond
    if not torch.is_tensor(labels) or labels.is_floating_point():
        raise StillhouseError("A partition in blocks routes class labels, and this condition has none.")
    numbers: Tensor = labels.clamp_min(0) * by["parts"] // by["classes"]
    return numbers


def _signs(by: Mapping[str, Any], cond: Condition) -> Tensor:
    """The signs of pooled embeddings along a few directions, read as a binary number."""
    vectors = pooled(cond)
    centre, directions = (torch.tensor(by[name]).to(vectors) for name in ("centre", "directions"))
    above = ((vectors - centre) @ directions.T > 0).long()
    return (above * 2 ** torch.arange(above.shape[1], device=above.device)).sum(1)


PARTITIONS: dict[str, Callable[[Mapping[str, Any], Condition], Tensor]] = {"blocks": _blocks, "signs": _signs}


def route(by: Mapping[str, Any], cond: Condition, rows: int) -> Tensor:
    """Which part of a partition each condition lies in.

    Arguments:
        by: the partition as plain data: ``name`` of :data:`PARTITIONS` and its numbers.
        cond: a condition of B rows, or None, which goes to the first part.
        rows: B.

    Returns:
        Numbers of parts, (B,) int64 on the CPU.
    """
    if by["name"] not in PARTITIONS:
        raise unknown("partition of conditions", str(by["name"]), PARTITIONS)
    if cond is None:
        return torch.zeros(rows, dtype=torch.long)
    return PARTITIONS[by["name"]](by, cond).cpu()


class Routed(Network):
    """Experts behind one call: each row is computed by the network of its condition's part alone.

    A batch costs what it would cost one expert. ``config`` holds those of the experts, so that it is saved
    and built again as one network.

    Arguments:
        experts: networks of ours, one a part.
        by: the partition as plain data, see :func:`route`.
    """

    name = "routed"

    def __init__(self, experts: Sequence[nn.Module], by: Mapping[str, Any]):
        configs = [getattr(expert, "config", None) for expert in experts]
        require(
            all(isinstance(config, dict) for config in configs),
            "Experts that become one model must be networks of ours.",
        )
        super().__init__({"experts": configs, "by": dict(by)})
        self.by = dict(by)
        self.experts = nn.ModuleList(experts)

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, cond: Any = None, **extra: Tensor
    ) -> Tensor:
        """Each row from its expert.

        Arguments:
            x: states, (B, *shape).
            t: times in [0, 1], (B,).
            cond: the condition of the B rows; None: all rows go to the first expert.
            extra: ``s`` and ``guidance``, each (B,).

        Returns:
            The prediction, (B, *shape).
        """
        part = route(self.by, cond, len(x))
        out: Tensor | None = None
        for k in part.unique().tolist():
            rows = (part == k).nonzero()[:, 0].to(x.device)
            given = {name: value[rows] for name, value in extra.items()}
            made = self.experts[k](x[rows], t[rows], pick(cond, rows), **given)
            out = made.new_empty(len(x), *made.shape[1:]) if out is None else out
            out = out.index_copy(0, rows, made)
        assert out is not None
        return out
