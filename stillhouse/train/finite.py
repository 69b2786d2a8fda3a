"""Numbers that are no numbers: steps that are not taken, checkpoints that are not written, runs that stop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from stillhouse.core.errors import StillhouseError
from stillhouse.io.weights import first_not_finite
from stillhouse.train import checkpoint

IDLE = 100  # steps of a player, one after the other, that may be skipped


class FiniteGuard:
    """What a run does where a value is not finite.

    Arguments:
        skip: a player's step with a loss or gradient that is not finite is left out; else the run stops.
        scaled: half precision, whose gradients overflow until their scale is found, and are left out.
        folder: of the run's checkpoints; None for none.
        begun: what the run begins with, by name. A tensor that holds an infinite value then, a mask, may go
            on doing so.
    """

    def __init__(self, *, skip: bool, scaled: bool, folder: Path | None, begun: Mapping[str, Tensor]):
        self.skip, self.scaled, self.folder = skip, scaled, folder
        self.exempt = {name for name in begun if first_not_finite({name: begun[name]})}
        self.idle: Counter[str] = Counter()  # steps skipped since the last that was taken
        self.moved: set[str] = set()

    def allows(self, name: str, step: int, loss: float, norm: float, note: Callable[[str], None]) -> bool:
        """Whether a player takes its step.

        Arguments:
            name: of the player.
            step: of the run.
            loss: its value.
            norm: of the gradient.
            note: is given a line for each step that is skipped.

        Returns:
            True where both are finite; False where the step is left out.

        Raises:
            StillhouseError: where the run is to stop, or :data:`IDLE` steps in a row were skipped.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.moved.add(name)
            self.idle[name] = 0
            return True
        what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient", norm)
        if not (self.skip or (self.scaled and what == "gradient")):
            raise StillhouseError(
                f"The {what} of player '{name}' became {value} at step {step}; {self.last_good()}. "
                "Try a lower rate or a clip."
            )
        note(f"Step {step}: the {what} of '{name}' is not finite; its step is skipped.")
        self.idle[name] += 1
        if self.idle[name] >= IDLE:
            raise StillhouseError(
                f"The last {IDLE} steps of player '{name}' were skipped, up to step {step}: none of them was "
                f"finite; {self.last_good()}. Try a lower rate or a clip."
            )
        return False

    def require_finite(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Refuse a state that is no good to go on from, before it is written.

        Arguments:
            tensors: weights, averages and the optimisers' states, by name.
            step: iterations that are done.

        Raises:
            StillhouseError: for a value that is not finite.
        """
        if name := self._odd(tensors):
            raise StillhouseError(
                f"After step {step} '{name}' is not finite, and nothing of it is kept; {self.last_good()}. "
                "Try a lower rate or a clip."
            )

    def require_moved(self) -> None:
        """Refuse a run in which a player never took a step."""
        if never := sorted(set(self.idle) - self.moved):
            raise StillhouseError(
                f"Every step of player '{never[0]}' was skipped, since none was finite: there is nothing to "
                "save. Try a lower rate or a clip."
            )

    def last_good(self) -> str:
        """Which checkpoint to go back to, as part of a sentence: the newest that is whole and finite."""
        paths = sorted(self.folder.glob("step-*"), reverse=True) if self.folder else []
        for path in paths:
            with suppress(StillhouseError):  # a torn one
                _, files = checkpoint.read(path)
                kept = {
                    k: v for tensors in files.values() for k, v in tensors.items() if k not in self.exempt
                }
                if not first_not_finite(kept):
                    return f"the last good checkpoint is '{path}'"
        return "no checkpoint is good" if paths else "there is no checkpoint yet"

    def _odd(self, tensors: Mapping[str, Tensor]) -> str | None:
        return first_not_finite({k: v for k, v in tensors.items() if k not in self.exempt})
