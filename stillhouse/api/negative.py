"""Negative prompts: what the teacher of a run is guided away from, whatever system guides it."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from typing import Any

from stillhouse.core.conditions import move
from stillhouse.core.errors import require, required
from stillhouse.core.guidance import takes_guidance
from stillhouse.model import Model, Network


def negative_prompt_of(system: Any, teacher: Model, given: str | None) -> str | None:
    """The negative prompt of a run.

    Arguments:
        system: with its options set.
        teacher: of the run.
        given: by the user; an empty one means none.

    Returns:
        ``given``, or where it is None the system's own (``Method.negative_prompt``) for a text-to-video
        pipeline that it guides; None for none.
    """
    own: str = getattr(system, "negative_prompt", "")
    if given is not None or not own or teacher.pipeline is None or teacher.text is None:
        return given
    guides = any(w != 1 for w in _scales(system, teacher)) and not takes_guidance(teacher.denoiser)
    return own if teacher.form == "video" and guides else None


def with_negative_prompt(teacher: Model, system: Any, prompt: str | None) -> Model:
    """The teacher whose guidance moves away from a prompt, and no longer from the empty one.

    Arguments:
        teacher: of the run; it is not changed.
        system: with its options set.
        prompt: the negative one; None or an empty one for none.

    Returns:
        A model that shares the network of ``teacher``; ``teacher`` itself without a prompt.

    Raises:
        StillhouseError: for a system that never guides, a scale of 1, a teacher that takes no prompts, and
            one that takes the scale as an input.
    """
    if not prompt:
        return teacher
    name, scales = type(system).__name__, _scales(system, teacher)
    require(bool(scales), f"{name} never guides its teacher, so that a negative prompt would change nothing.")
    require(
        any(w != 1 for w in scales),
        f"A negative prompt acts through guidance, and the guidance of {name} is 1, none; give a larger "
        "scale.",
    )
    text = required(teacher.text, "The teacher takes no prompts, and so no negative prompt.")
    require(
        not takes_guidance(teacher.denoiser),
        "The teacher takes the guidance scale as an input and is evaluated once, so that nothing is left "
        "for a "
        "negative prompt to act on.",
    )
    denoiser = copy.copy(teacher.denoiser)
    denoiser.negative_condition = move(text.encode([prompt]), denoiser.device)
    return replace(teacher, denoiser=denoiser)


def without_negative_prompt(product: Model | Network) -> Model | Network:
    """A product of the teacher itself as it will be when it is opened again: no file keeps a negative prompt.

    Arguments:
        product: of an operation whose teacher had one.

    Returns:
        The product, whose denoiser is guided away from the empty prompt.

    Raises:
        StillhouseError: where a companion is guided away from a negative prompt whenever the product is
            sampled.
    """
    if not isinstance(product, Model):
        return product
    require(
        all(getattr(m, "negative_condition", None) is None for m in product.companions.values()),
        "This product is guided whenever it is sampled, and no file keeps a negative prompt; leave it away.",
    )
    product.denoiser.negative_condition = None
    return product


def _scales(system: Any, teacher: Model) -> list[float]:
    """The guidance scales among a system's options; a negative one is the teacher's own."""
    scales = [getattr(system, f.name) for f in dataclasses.fields(system) if f.name.endswith("guidance")]
    return [scale if scale > 0 else teacher.sampling().guidance for scale in scales]
