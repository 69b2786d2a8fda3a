"""A run's beginning on networks without memory: every refusal of a method, before anything is made or
read."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import torch
from torch import nn

from stillhouse.adapters import Adapted, adapted
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.model import Model
from stillhouse.train.guards import suiting
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe

log = logging.getLogger("stillhouse")


def ghost(denoiser: Denoiser) -> Denoiser:
    """A copy of a denoiser whose weights have shapes and no values, on torch's meta device; it costs no
    memory."""
    memo: dict[int, object] = {}
    for p in denoiser.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    for b in denoiser.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(denoiser, memo)


def dry_run(method: Method, teacher: Model, recipe: Recipe, conditional: bool) -> None:
    """Set a method up as a run does, with its players and stages, but on a copy without memory.

    What goes wrong for want of values shows nothing of the run, and is passed over.

    Arguments:
        method: with its options; it stays as it is.
        teacher: of the run; a closed form or an adapter has nothing to try, and only its kind is
            looked at.
        recipe: of the run; its length and adapters count.
        conditional: whether the run's data comes with conditions.

    Raises:
        StillhouseError: whatever the method refuses of this teacher.
    """
    suiting(method, teacher)
    method.stages(recipe.steps)
    if isinstance(teacher.denoiser, ExactDenoiser | Adapted):
        return
    with torch.random.fork_rng(devices=[]):
        try:
            base = ghost(teacher.denoiser)
            if recipe.lora:
                base = adapted(base, recipe.lora, targets=recipe.lora_targets)
            twin = replace(method)
            twin.setup(base, twin.make_student(base), tuple(teacher.shape), conditional, recipe.steps)
        except StillhouseError:
            raise
        except Exception as error:
            log.debug("Dry run not to the end: %s", error)
