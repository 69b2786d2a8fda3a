"""Names of before: options, weights and entries of files that were once spelled otherwise, read as what they
are called now."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Mapping
from typing import Any, TypeVar

log = logging.getLogger("stillhouse")
T = TypeVar("T")

# an option's old name, and the names that it may have now; the first one that a system has is meant
OPTIONS: dict[str, tuple[str, ...]] = {
    "start": ("first_time",),
    "low": ("score_t_min", "last_time"),
    "high": ("score_t_max", "first_time"),
    "says_x0": ("x0_student",),
    "time_law": ("time_sampler",),
    "accumulate": ("grad_accum",),
    "keep": ("keep_checkpoints",),
}
# parts of a weight's name
WEIGHTS = {"told": "modulation", "hear": "feature_embed"}
# beginnings of the names under which a checkpoint keeps modules
MODULES = {
    "slow.heir": "ema.next_teacher",
    "slow.": "ema.",
    "frozen.eye": "frozen.feature_net",
    "frozen.field": "state.field",
}


def current_option(name: str, known: Container[str]) -> str:
    """What an option is called now.

    Arguments:
        name: as it was given, of today or of before.
        known: the options that there are.

    Returns:
        The new name; ``name`` itself where it is ``known``, or is no name of before.
    """
    if name in known:
        return name
    return next((new for new in OPTIONS.get(name, ()) if new in known), name)


def current_options(values: Mapping[str, T], known: Container[str]) -> dict[str, T]:
    """Options under the names that they have now; one line of the log for each that was renamed.

    Arguments:
        values: the options' values by the names that were given.
        known: the options that there are.

    Returns:
        The same values under today's names.
    """
    made = {}
    for name, value in values.items():
        new = current_option(name, known)
        if new != name:
            log.warning("The option '%s' is called '%s' now.", name, new)
        made[new] = value
    return made


def current_weights(tensors: Mapping[str, T]) -> dict[str, T]:
    """Weights by the names that the layers of our networks have now; other names are left alone."""
    words = re.compile(r"(?<![^./])(" + "|".join(WEIGHTS) + r")(?=\.)")
    return {words.sub(lambda found: WEIGHTS[found[1]], name): value for name, value in tensors.items()}


def current_modules(tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors of a checkpoint, ``module/weight``, by the names that modules and weights have now."""

    def renamed(name: str) -> str:
        old = next((old for old in MODULES if name.startswith(old)), "")
        return MODULES[old] + name.removeprefix(old) if old else name

    return {renamed(name): value for name, value in current_weights(tensors).items()}


def current_run(
    fingerprint: Mapping[str, Any], known: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fingerprint of a run in a checkpoint, by the names that options have now.

    Arguments:
        fingerprint: the entries in the checkpoint, the method's options under ``method`` and ``options``.
        known: the fingerprint of today's run, which has the current names.
        defaults: of the method's options, for those that it did not have when the checkpoint was made; None
            for none.

    Returns:
        ``fingerprint`` with its options renamed.
    """
    made = {current_option(name, known): value for name, value in fingerprint.items()}
    method = dict(made.get("method") or {})
    options = known.get("method", {}).get("options", {})
    renamed = {current_option(k, options): v for k, v in (method.get("options") or {}).items()}
    return {**made, "method": {**method, "options": {**(defaults or {}), **renamed}}}
