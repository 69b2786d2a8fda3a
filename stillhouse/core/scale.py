"""The guidance scale that a user means; without torch."""

from __future__ import annotations

import logging

log = logging.getLogger("stillhouse")


def given_scale(scale: float, where: str) -> float:
    """The scale that a user means: 0 is "no guidance" in Diffusers, and so it is here, said once in a line.
    (``D^0`` would be the unconditional estimate: the prompt dropped, at the price of two evaluations.)

    Arguments:
        scale: as given, 0 or more.
        where: what it is of, for the line.

    Returns:
        The scale; 1 for 0.
    """
    if scale != 0:
        return scale
    log.warning("%s: a guidance scale of 0 is read as 1, no guidance; so it is in Diffusers.", where)
    return 1.0
