"""What a solver is: something that carries a state from time ``t`` to time ``s``.

A solver calls ``predict(x, t, s) -> Prediction`` as often as it needs and may keep a history in the
``History`` it is given. The loop that walks a grid is :func:`stillhouse.samplers.rollout`, for teachers and
students alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.prediction import Prediction
from stillhouse.core.process import Process

Predict = Callable[[Tensor, Tensor, Tensor], Prediction]


def fresh(draws: Draws | None, x: Tensor) -> Tensor:
    """Standard normal noise like ``x``; a walk that needs some must have been given draws.

    Arguments:
        draws: the source of randomness; None raises.
        x: states, (B, *shape).

    Returns:
        Noise, (B, …).
    """
    if draws is None:
        raise RuntimeError("this walk draws noise but was given none; pass draws")
    return draws.normal_like(x)


@dataclass
class History:
    """What a solver is given of one walk besides the step: its process, past predictions (newest last), and
    what is left of the grid."""

    process: Process
    pred: list[Prediction] = field(default_factory=list)
    left: int = 0  # steps after this one

    def keep(self, pred: Prediction, most: int) -> None:
        """Add ``pred`` and drop all but the newest ``most``.

        Arguments:
            pred: the newest prediction.
            most: how many are kept, at least 1.
        """
        self.pred = [*self.pred, pred][-most:]


class Solver:
    """One step of a sampler. ``evaluations`` per step; ``stochastic`` solvers draw fresh noise."""

    name: str = ""
    evaluations: int = 1
    stochastic: bool = False

    def step(
        self, predict: Predict, x: Tensor, t: Tensor, s: Tensor, history: History, draws: Draws | None
    ) -> Tensor:
        """One step of a walk, from ``t`` to ``s < t``.

        Arguments:
            predict: ``predict(x, t, s)``, the model's prediction at a state.
            x: states, (B, *shape).
            t: times in [0, 1], (B,).
            s: earlier times, (B,).
            history: what the solver keeps of this walk.
            draws: the source of randomness; None for a solver that needs none.

        Returns:
            The states at ``s``, (B, *shape).
        """
        raise NotImplementedError

    def evaluation_times(self, process: Process, times: Sequence[float]) -> list[float]:
        """The times at which one walk along ``times`` evaluates the network, repeated as often as it does.

        Arguments:
            process: the process of the walk.
            times: the grid, falling, n + 1 numbers in [0, 1].

        Returns:
            The times of all evaluations, in order.
        """
        return [t for t in times[:-1] for _ in range(self.evaluations)]

    def config(self) -> dict[str, Any]:
        """Name and parameters as plain data; :func:`stillhouse.solvers.make_solver` reads it back."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]
