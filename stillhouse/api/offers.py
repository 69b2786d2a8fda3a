"""Which systems can run on a model, and what a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stillhouse import forms
from stillhouse.api.options import plain
from stillhouse.core.conditions import Condition
from stillhouse.core.errors import StillhouseError
from stillhouse.io.own import is_own
from stillhouse.io.weights import kind_config
from stillhouse.model import Model
from stillhouse.systems.registry import System, class_of, list_systems
from stillhouse.train.dry_run import dry_run
from stillhouse.train.guards import suiting
from stillhouse.train.method import Method
from stillhouse.train.needs import Need, read_need
from stillhouse.train.recipe import Recipe


@dataclass(frozen=True)
class Offer:
    """A system that can run on a model: with which options, none for its own, and with what beside the
    teacher."""

    slug: str
    options: dict[str, Any]
    needs: tuple[str, ...]

    @property
    def phrase(self) -> str:
        """For a person: ``dmd2 (gan_weight=0)``."""
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.slug} ({given})" if given else self.slug


def offers(model: Model) -> list[Offer]:
    """The systems with a teacher that can run on a model, each tried on a copy without memory.

    Arguments:
        model: the teacher.

    Returns:
        In the order of their slugs; one that runs only without what an option switches off, a critic for
        example, has that option.
    """
    rows = [
        row
        for row in list_systems()
        if row.kind != "estimator" and not row.problem and "teacher" in row.needs
    ]
    found = [offer for row in rows if (offer := _tried(row, model)) is not None]
    return sorted(found, key=lambda offer: offer.slug)


def _tried(row: System, model: Model) -> Offer | None:
    """The row as an offer, as it is or without one of what its options switch off; None if it is refused."""
    needs = [read_need(text) for text in row.needs]
    switches: list[dict[str, Any]] = [{}, *({n.option: plain(n.value)} for n in needs if n.unless)]
    for options in switches:
        if _runs(row, model, options):
            return Offer(row.slug, options, _wanted(needs, options))
    return None


def _runs(row: System, model: Model, options: dict[str, Any]) -> bool:
    try:
        system = class_of(row.slug)(**options)
        if isinstance(system, Method):
            dry_run(system, model, Recipe(), model.conditional)
        else:
            suiting(system, model)
            system.suits(model)
    except StillhouseError:
        return False
    return True


def _wanted(needs: list[Need], options: dict[str, Any]) -> tuple[str, ...]:
    """What stands of the needs under these options, and their systems' own elsewhere."""
    standing = [n for n in needs if not n.option or (n.unless and n.option not in options)]
    return tuple(dict.fromkeys(need.name for need in standing))


def describe_model(model: Model) -> dict[str, Any]:
    """What a model is, as plain data for ``stillhouse inspect``; of a Diffusers pipeline see
    :func:`stillhouse.io.pipelines.describe.describe`.

    Arguments:
        model: any other.

    Returns:
        Its network, process, kind, state, conditions and steps.
    """
    denoiser = model.denoiser
    weights = next(denoiser.parameters(), torch.zeros(0))
    return {
        "network": {
            "class": type(denoiser.net).__name__,
            "own": is_own(denoiser.net),
            "code": model.code,
            "parameters": model.parameters,
            "dtype": str(weights.dtype),
        },
        "process": denoiser.process.config(),
        "prediction": kind_config(denoiser.kind)["name"],
        "form": forms.of(model).name,
        "shape": list(model.shape),
        "classes": model.classes,
        "condition": _shapes(model.examples),
        "cond_kind": model.cond_kind,
        "steps": list(model.samplings),
        "many_steps": model.free_steps,
    }


def _shapes(cond: Condition) -> Any:
    """The shapes of a condition's parts, without the rows."""
    if isinstance(cond, dict):
        return {name: list(part.shape[1:]) for name, part in cond.items()}
    return None if cond is None else list(cond.shape[1:])
