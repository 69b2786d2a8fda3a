"""Which few of a teacher's many steps follow its trajectory best: a dynamic programme over its time grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stillhouse.core.process import Process

Path = tuple[int, ...]


class Slope(Protocol):
    """The two ends of the straight line that a model predicts at one time of the grid."""

    def __call__(self, i: int, y: Tensor) -> tuple[Tensor, Tensor]:
        """Clean data and noise, each (B, …), at the state ``y`` (B, …) of the straight path at index
        ``i``."""
        ...


def straight_times(process: Process, times: Sequence[float]) -> Tensor:
    """``sigma / (alpha + sigma)``: times as those of the straight path ``(1 - t) x_0 + t eps``.

    Arguments:
        process: the process that the times are of.
        times: in [0, 1], N + 1 of them.

    Returns:
        The same times on the straight path, float64, (N + 1,).
    """
    t = torch.as_tensor(times, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return sigma / (alpha + sigma)


@dataclass
class Tables:
    """What a search leaves: ``states`` of the best paths of at most as many steps as levels were swept,
    ``costs`` (N + 1, G) of these, and for each level ``before`` (N + 1, G), the index that each index was
    reached from, -1 where the level changed nothing."""

    states: Tensor
    costs: Tensor
    before: list[Tensor]

    def path(self, steps: int, group: int = 0) -> Path:
        """The best path from the noisy end to index 0.

        Arguments:
            steps: the most steps it may have, at most the levels that were swept.
            group: the number of the sample, where each was searched for by itself.

        Returns:
            Falling indices of the grid, the last one 0.
        """
        found, j = [0], 0
        for level in reversed(self.before[:steps]):
            i = int(level[j, group])
            if i >= 0:
                found.append(i)
                j = i
        return tuple(reversed(found))


def walk(slope: Slope, y: Tensor, times: Tensor, path: Sequence[int]) -> list[Tensor]:
    """Euler's method along a path of the grid.

    Arguments:
        slope: the model.
        y: states at the path's first index, (B, …).
        times: of the straight path, (N + 1,), rising from index 0.
        path: indices of the grid.

    Returns:
        The states (B, …) at each index of the path, the first one ``y``.
    """
    states = [y]
    for i, j in zip(path, path[1:], strict=False):
        x0, eps = slope(i, states[-1])
        states.append((1 - float(times[j])) * x0 + float(times[j]) * eps)
    return states


def search(
    slope: Slope,
    y: Tensor,
    times: Tensor,
    steps: int,
    *,
    each: bool = False,
    anchor: bool = True,
    power: float = 2.0,
    levels: Iterable[int] | None = None,
) -> Tables:
    """The best paths through a grid in 1 … ``steps`` Euler steps (Pei, Hu & Gu, 2025, arXiv 2503.21774,
    algorithm 1).

    Level ``k`` evaluates the model at the best state of each index and offers a step from there to every
    index below; an index takes the offer that ends nearest to the teacher's own state there. Of equal offers
    the one from the larger index is kept. An index that no offer betters keeps its path, and with it the
    states along it, so that a path read back ends exactly at the cost that was noted for it.

    Arguments:
        slope: the model.
        y: states (B, …) at the noisy end, index N, float32 or finer.
        times: of the straight path, (N + 1,), rising from index 0.
        steps: the most steps of a path, at least 1.
        each: search for every sample by itself, G = B; otherwise the cost is the mean over them, G = 1.
        anchor: the first step begins at index N; otherwise at any index, with the noise as it is.
        power: of the deviation in the cost.
        levels: ``range(steps)``, wrapped in a progress bar, say.

    Returns:
        The tables. ``N + steps N`` evaluations of the B samples at most.
    """
    top = len(times) - 1
    target = torch.stack(list(reversed(walk(slope, y, times, range(top, -1, -1)))))
    at = times.to(y).reshape(-1, *[1] * y.dim())
    states = y.expand(top + 1, *y.shape).clone()
    groups = len(y) if each else 1
    costs = torch.full((top + 1, groups), torch.inf, dtype=torch.float64, device=y.device)
    reached = torch.full((top + 1,), not anchor, dtype=torch.bool)
    reached[top] = True
    tables = Tables(states, costs, [])
    for _ in range(steps) if levels is None else levels:
        states, costs = tables.states.clone(), tables.costs.clone()
        before = torch.full((top + 1, groups), -1)
        for i in range(top, 0, -1):
            if not reached[i]:
                continue
            x0, eps = slope(i, tables.states[i])
            offered = (1 - at[:i]) * x0 + at[:i] * eps
            cost = (offered - target[:i]).abs().pow(power).flatten(2).mean(2).double()
            cost = cost if each else cost.mean(1, keepdim=True)
            better = cost < costs[:i]
            costs[:i] = torch.where(better, cost, costs[:i])
            before[:i][better.to(before.device)] = i
            taken = better.reshape(i, groups, *[1] * (y.dim() - 1))
            states[:i] = torch.where(taken, offered, states[:i])
        tables = Tables(states, costs, [*tables.before, before])
        reached[:top] = True
    return tables


def median_path(paths: Sequence[Path], steps: int) -> Path:
    """One path for many: at each step the median of their indices, floored between the middle two.

    Arguments:
        paths: falling indices to 0, of at most ``steps`` steps each.
        steps: the length to which short ones are filled up by repeating their first index.

    Returns:
        Falling indices to 0, without repetitions.
    """
    full = torch.tensor([[p[0]] * (steps + 1 - len(p)) + [*p] for p in paths])
    ordered, half = full.sort(0).values, len(paths) // 2
    middle = ordered[half] if len(paths) % 2 else (ordered[half - 1] + ordered[half]) // 2
    return tuple(dict.fromkeys(middle.tolist()))
