"""A sampler as a plain graph: its network calls and nothing else but sums of what was there before, with
numbers for weights.

Every solver here is linear in the noise it is given and in the network's outputs. So the walk is followed
once with unit vectors in the place of both, which reads off all weights in float64; the graph that is left
has no schedule in it, no branch and no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.samplers.rollout import rollout
from stillhouse.samplers.sampling import Sampling
from stillhouse.solvers import make_solver


@dataclass(frozen=True)
class Sum:
    """``sum_i noise[i] z_i + sum_k pred[k] raw_k``: weights of the noises and of the network's outputs, by
    number."""

    noise: dict[int, float]
    pred: dict[int, float]


@dataclass(frozen=True)
class Call:
    """One evaluation: its state, its numerical inputs (``t``, and ``s`` and ``guidance`` where the network
    takes them), whether it takes the condition."""

    state: Sum
    numbers: dict[str, float]
    conditional: bool


@dataclass
class Plan:
    """The calls of a walk in order, and the sample at its end. ``noises``: how many it draws."""

    calls: list[Call] = field(default_factory=list)
    sample: Sum = field(default_factory=lambda: Sum({}, {}))
    noises: int = 0

    @property
    def takes_noise(self) -> bool:
        """Whether any noise has a part in the sample."""
        return any(state.noise for state in (self.sample, *(call.state for call in self.calls)))


class _Units(Draws):
    """Draws that are unit vectors: the i-th is ``e_i`` of ``size``, float64, whatever shape and type are
    requested."""

    def __init__(self, size: int):
        super().__init__(1, "units")
        self.size, self.drawn = size, 0

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        require(self.drawn < self.size // 2, "This walk draws more noise than can be unrolled.")
        self.drawn += 1
        return nn.functional.one_hot(torch.tensor([self.drawn - 1]), self.size).to(torch.float64)


class Given(Draws):
    """Draws that are tensors (rows, *shape), in their order."""

    def __init__(self, noises: Sequence[Tensor]):
        super().__init__(len(noises[0]), "given")
        self.noises = list(noises)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.noises.pop(0).to(dtype)


class _Tape(nn.Module):
    """In the place of a network: records every call, and returns the next unit vector."""

    def __init__(self, size: int, config: Any, condition: Tensor):
        super().__init__()
        self.size, self.config, self.condition, self.calls = size, config, condition, list[Call]()

    def forward(self, x: Tensor, t: Tensor, cond: Condition = None, **extra: Tensor) -> Tensor:
        """Record a call.

        Arguments:
            x: the state as its weights, (1, size).
            t: the time, (1,).
            cond: the tape's own ``condition``; None for none.
            extra: further numerical inputs, (1,) each.

        Returns:
            The unit vector of this call's output, (1, size).
        """
        require(
            cond is None or cond is self.condition,
            "A walk with a negative condition of its own can't be unrolled.",
        )
        require(len(self.calls) < self.size // 2, "This walk has more calls than can be unrolled.")
        numbers = {"t": t, **extra}
        self.calls.append(
            Call(self.read(x), {name: float(value[0]) for name, value in numbers.items()}, cond is not None)
        )
        answer = torch.tensor([self.size // 2 + len(self.calls) - 1])
        return nn.functional.one_hot(answer, self.size).to(torch.float64)

    def read(self, x: Tensor) -> Sum:
        """The weights that a state (1, size) consists of."""
        half, weights = self.size // 2, x[0].tolist()
        return Sum(*({i: w for i, w in enumerate(part) if w} for part in (weights[:half], weights[half:])))


def plan_of(denoiser: Denoiser, sampling: Sampling, conditional: bool) -> Plan:
    """The calls and weights of a sampling.

    Arguments:
        denoiser: a denoiser with a network of its own, in a continuous process.
        sampling: one leg without saved hooks, not a stream.
        conditional: whether the samples have a condition.

    Returns:
        The calls in order and the sample at their end.

    Raises:
        StillhouseError: for a denoiser or a sampling of another kind.
    """
    require(
        not isinstance(denoiser, ExactDenoiser) and not isinstance(denoiser.net, Denoiser),
        f"Only a network of one's own can be unrolled, not a {type(denoiser).__name__}.",
    )
    require(
        not denoiser.process.discrete,
        "A walk over tokens is no sum of network outputs; it can't be unrolled.",
    )
    require(not sampling.stream, "A stream keeps what it has made; it can't be unrolled.")
    require(sampling.plain, "Only a walk of one leg without saved hooks can be unrolled.")
    solver = make_solver(sampling.solver)
    size = 2 * (2 * len(solver.evaluation_times(denoiser.process, sampling.times)) + 2 * len(sampling.times))
    condition = torch.zeros(1)
    tape, draws = _Tape(size, getattr(denoiser.net, "config", None), condition), _Units(size)
    noted = Denoiser(tape, denoiser.process, denoiser.kind, two_time=denoiser.two_time)
    start = denoiser.process.start(draws, (size,), sampling.times[0], sampling.start, torch.float64)
    cond = condition if conditional else None
    with torch.no_grad():
        sample = rollout(sampling.guided(noted), start, sampling.times, solver, cond, draws=draws)
    return Plan(tape.calls, tape.read(sample), draws.drawn)


class Unrolled(nn.Module):
    """``sampler(noise, *cond_parts) -> sample``: a walk of ``denoiser`` as one module, differentiable and
    exportable.

    ``noise``: (B, *shape), or (B, N, *shape) where the walk draws N > 1 times; missing where no noise goes in
    at all. ``cond_parts``: the parts of the condition, one tensor (B, …) each, in the order of ``names``; a
    plain condition has the single name ``label`` or ``tokens``.
    """

    def __init__(
        self, denoiser: Denoiser, sampling: Sampling, shape: Sequence[int], names: Sequence[str] = ()
    ):
        super().__init__()
        self.denoiser, self.shape, self.names = denoiser, tuple(shape), tuple(names)
        self.plan = plan_of(denoiser, sampling, bool(names))
        require(
            self.plan.takes_noise or bool(names),
            "This sampler takes neither noise nor a condition: it has one sample only.",
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what it takes, in order."""
        return (*(("noise",) if self.plan.takes_noise else ()), *self.names)

    def forward(self, *given: Tensor) -> Tensor:
        noise = given[0] if self.plan.takes_noise else None
        cond_parts: Condition = (
            dict(zip(self.names, given[len(given) - len(self.names) :], strict=True)) or None
        )
        noises = [] if noise is None else noise.unbind(1) if self.plan.noises > 1 else [noise]
        rows = given[0].shape[0]  # not len(), which would fix the number in a graph
        blank = given[0].new_zeros(rows, *self.shape, dtype=torch.float32)
        pred: list[Tensor] = []

        def add(what: Sum) -> Tensor:
            terms = [w * noises[i] for i, w in what.noise.items()] + [
                w * pred[k] for k, w in what.pred.items()
            ]
            return sum(terms[1:], terms[0]) if terms else blank

        for call in self.plan.calls:
            numbers = {name: blank.new_full((rows,), value) for name, value in call.numbers.items()}
            cond = cond_parts if call.conditional else self.denoiser.empty
            pred.append(
                self.denoiser.call(self.denoiser.net, add(call.state), numbers.pop("t"), cond, **numbers)
            )
        return self.denoiser.process.to_data(add(self.plan.sample), cond_parts)
