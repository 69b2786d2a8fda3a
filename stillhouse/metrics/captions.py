"""The little language of the world ``shapes``: its captions, the parts that each one names, and which of them
are held out.

Every scene has a *canonical* caption, whose first object is the upper or the left one: "a below b" shows what
"b above a" shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import seed_of

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
RELATIONS = ("above", "below", "left of", "right of")
LAYOUTS = ("single", "vertical", "horizontal")
OBJECTS = tuple(f"a {colour} {shape}" for shape in SHAPES for colour in COLOURS)
CAPTIONS = OBJECTS + tuple(f"{a} {relation} {b}" for a in OBJECTS for b in OBJECTS for relation in RELATIONS)
VOCABULARY = ("a", "above", "below", "left", "right", "of", *COLOURS, *SHAPES)
LONGEST = 8  # words


@dataclass(frozen=True)
class Parts:
    """What captions name, in canonical order; all (B,) int64. The second object's shape and colour are -1
    where there is none."""

    layout: Tensor
    shape1: Tensor
    colour1: Tensor
    shape2: Tensor
    colour2: Tensor


def canonical(ids: Tensor) -> Tensor:
    """The canonical captions (B,) of scenes that ``ids`` (B,) describe."""
    pair = ids - len(OBJECTS)
    first, second, relation = pair // 4 // len(OBJECTS), pair // 4 % len(OBJECTS), pair % 4
    swapped = len(OBJECTS) + (second * len(OBJECTS) + first) * 4 + relation - 1
    return torch.where((pair >= 0) & (relation % 2 == 1), swapped, ids)


def parts(ids: Tensor) -> Parts:
    """The parts of captions ``ids`` (B,), each in ``0 … len(CAPTIONS) - 1``."""
    pair = canonical(ids) - len(OBJECTS)
    two = pair >= 0
    first = torch.where(two, pair // 4 // len(OBJECTS), ids)
    second = pair // 4 % len(OBJECTS)
    none, n = torch.full_like(ids, -1), len(COLOURS)
    layout = torch.where(two, 1 + pair % 4 // 2, torch.zeros_like(ids))
    return Parts(
        layout, first // n, first % n, torch.where(two, second // n, none), torch.where(two, second % n, none)
    )


def caption_of(found: Parts) -> Tensor:
    """The canonical captions (B,) of ``found``; the second object's parts are passed over where the layout is
    single."""
    n = len(COLOURS)
    first, second = found.shape1 * n + found.colour1, found.shape2 * n + found.colour2
    pair = len(OBJECTS) + (first * len(OBJECTS) + second) * 4 + 2 * (found.layout - 1)
    return torch.where(found.layout == 0, first, pair)


def held_out() -> Tensor:
    """Which captions (len(CAPTIONS),) are never drawn for training: all that describe a tenth of the scenes
    of two objects."""
    scenes = canonical(torch.arange(len(CAPTIONS))).tolist()
    return torch.tensor(
        [scene >= len(OBJECTS) and seed_of("held out", CAPTIONS[scene]) % 10 == 0 for scene in scenes]
    )
