"""A stage of a run: its name, length, whose turns, which losses, what happens on entering it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.samplers.sampling import Sampling

Loss = Callable[[Any], Tensor]  # of a batch


@dataclass
class Stage:
    """A part of a run. Every player gets a fresh optimiser when one begins, and averages start anew.

    Arguments:
        name: what reports call it.
        length: iterations.
        turns: which players move in the stage's iteration 0, 1, 2 …, in order; None for all of them.
        losses: the loss of a player in this stage; one that is missing has the method's ``<player>_loss``.
        enter: called when the stage begins, unless it is the run's first.
        samplings: how the student of this stage is sampled; None for the method's own samplings.
    """

    name: str
    length: int
    turns: Callable[[int], Sequence[str]] | None = None
    losses: Mapping[str, Loss] = field(default_factory=dict)
    enter: Callable[[], None] | None = None
    samplings: Callable[[], dict[int, Sampling]] | None = None


def locate(stages: Sequence[Stage], step: int) -> tuple[int, int]:
    """The stage that an iteration is in; the last one for an iteration after the end.

    Arguments:
        stages: of the run, in order.
        step: iteration of the run, from 0.

    Returns:
        The number of the stage, and the iteration's number within it, both from 0.
    """
    for number, stage in enumerate(stages):
        if step < stage.length:
            return number, step
        step -= stage.length
    return len(stages) - 1, stages[-1].length


def alternating(
    often: int, first: str = "student", other: str = "fake", offset: int = 0
) -> Callable[[int], list[str]]:
    """Two time-scale turns (Yin et al., 2024, arXiv 2405.14867): ``other`` moves always, ``first`` before it
    once in so many.

    Arguments:
        often: iterations from one move of ``first`` to the next.
        first: the player that moves seldom.
        other: the player that moves always.
        offset: of the count, which begins with a move of ``first`` at 0.

    Returns:
        The ``turns`` of a :class:`Stage`.
    """
    return lambda step: [first, other] if (step + offset) % often == 0 else [other]


def enough(stages: list[Stage], total: int, what: str = "stages") -> list[Stage]:
    """Refuse, with a :class:`StillhouseError`, a stage that is empty for want of iterations.

    Arguments:
        stages: of the run.
        total: iterations of the run, for the sentence.
        what: the stages are called, for the sentence.

    Returns:
        The stages, as they are.
    """
    require(
        min(stage.length for stage in stages) > 0, f"{total} iterations are too few for {len(stages)} {what}."
    )
    return stages
