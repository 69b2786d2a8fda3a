"""What one looks at: samples as texts, pictures, moving pictures or dots; and what a world adds to that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from stillhouse.core.conditions import Condition


@dataclass
class Texts:
    """One string a sample."""

    texts: list[str]


@dataclass
class Pictures:
    """Still pictures (B, 1 or 3, H, W) in [-1, 1]. ``columns``: beside each other on a page; ``few``: in a
    row that stands for all; ``by_class``: a column may hold one class."""

    images: Tensor
    columns: int = 10
    few: int = 10
    by_class: bool = True


@dataclass
class Clips:
    """Moving pictures (B, F, 1 or 3, H, W) in [-1, 1]. ``few``: as many stand for all."""

    clips: Tensor
    few: int = 3


@dataclass
class Dots:
    """Points (B, D) of two coordinates or more; the first two are drawn."""

    points: Tensor


View = Texts | Pictures | Clips | Dots
Show = Callable[["Tensor", "Tensor | None"], "View | None"]


@dataclass(frozen=True)
class Display:
    """What a world adds to the display of its samples; None: nothing beside their form's own.

    ``show(samples, labels)``: samples (B, *shape) as a view, or None for those that can't be shown so.
    ``whole(side)``: a whole picture to restore and the true one, each (1, C, side, side), in a world of
    patches of such. ``sound(frames)``: the features (1, F, C) that a network takes of a sound (F, T) cut into
    the frames of a clip. ``condition(labels, frames)``: the condition of a clip of so many frames.
    """

    show: Show | None = None
    whole: Callable[[int], tuple[Tensor, Tensor]] | None = None
    sound: Callable[[Tensor], Tensor] | None = None
    condition: Callable[[Tensor, int], Condition] | None = None

    def view(self, samples: Tensor, labels: Tensor | None = None) -> View | None:
        """Samples as the world shows them, else as their numbers alone can be shown.

        Arguments:
            samples: (B, *shape).
            labels: those that the samples were drawn under, (B,); None for none.

        Returns:
            A view, or None for samples that can't be drawn.
        """
        shown = self.show(samples, labels) if self.show else None
        return view_of(samples) if shown is None else shown


def view_of(samples: Tensor) -> View | None:
    """Samples (B, …) as a view by their shape alone, or None."""
    shape = tuple(samples.shape[1:])
    if len(shape) == 4 and shape[1] in (1, 3):
        return Clips(samples.clamp(-1, 1))
    if len(shape) == 3 and shape[0] in (1, 3):
        return Pictures(samples)
    if len(shape) == 1 and shape[0] >= 2:
        return Dots(samples)
    return None
