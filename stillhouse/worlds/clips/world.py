"""``clips``: short videos of something that moves."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stillhouse.core.errors import unknown
from stillhouse.worlds.base import World

# kind -> file below stillhouse.worlds.clips, and the class in it
KINDS = {
    "drawn": ("drawn", "DrawnClips"),
    "ring": ("ring", "RingClips"),
    "talking": ("talking", "TalkingClips"),
}


def make_clips(kind: str = "drawn", **options: Any) -> World:
    """The world of short videos of one kind.

    Arguments:
        kind: ``drawn``, coloured shapes with captions, (12, 3, 16, 16); ``ring``, a bump on a ring of 16
            pixels, whose teacher is exact; ``talking``, a mouth on that ring, which opens with the loudness
            in its condition.
        options: of that kind.

    Returns:
        The world.
    """
    if kind not in KINDS:
        raise unknown("kind of clips", kind, KINDS)
    file, name = KINDS[kind]
    world: World = getattr(import_module(f"stillhouse.worlds.clips.{file}"), name)(**options)
    return world
