"""What a run checks of what it is given, before anything is made."""

from __future__ import annotations

from typing import ClassVar, Protocol

from stillhouse import forms
from stillhouse.core.bridge import Bridge
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.model import Model
from stillhouse.train.data import Data
from stillhouse.train.method import Method

PROCESSES = {"gaussian": "a Gaussian process", "tokens": "tokens", "bridge": "a bridge"}


class Particular(Protocol):
    """A system that is for teachers of some kinds: a :class:`Method` and any other."""

    processes: ClassVar[tuple[str, ...]]
    forms: ClassVar[tuple[str, ...]]


def suiting(system: Particular, teacher: Model) -> None:
    """Refuse, with a :class:`StillhouseError`, a teacher of another kind than a system is for.

    Arguments:
        system: its ``processes`` and ``forms`` count.
        teacher: its process and the form of its samples count.
    """
    name = type(system).__name__
    process = teacher.denoiser.process
    kind = "tokens" if process.discrete else "bridge" if isinstance(process, Bridge) else "gaussian"
    require(
        kind in system.processes,
        f"{name} is for models of {' or '.join(PROCESSES[k] for k in system.processes)}, not of "
        f"{PROCESSES[kind]}.",
    )
    form = forms.of(teacher).name
    require(
        not system.forms or form in system.forms,
        f"{name} is for models of the form {' or '.join(system.forms)}; this one makes samples of the form "
        f"{form}.",
    )


def fitting(method: Method, teacher: Model, data: Data, student: Denoiser | None) -> None:
    """Refuse, with a :class:`StillhouseError`, a teacher, data and a student that don't belong together.

    Arguments:
        method: what it needs of the data, and whether it copies weights.
        teacher: its samples must have the shape of the data, its classes include the data's.
        data: must have samples, parts and views where the method reads them.
        student: a network of the user's own; None: the method makes one.
    """
    suiting(method, teacher)
    name = type(method).__name__
    made, given = tuple(teacher.shape), tuple(data.shape)
    require(made == given, f"The teacher makes samples of shape {made}, the data has {given}.")
    known = not (data.classes and teacher.classes and data.classes > teacher.classes)
    require(known, f"The data has {data.classes} classes, the teacher takes {teacher.classes}.")
    has_samples = not method.requires("data") or data.rows(0, Draws(1, "probe"))[0] is not None
    require(has_samples, f"{name} learns from real data; give it a world or a data folder.")
    for kind in ("parts", "views"):
        wanted, found = getattr(method, f"reads_{kind}"), getattr(data, kind, {})
        missing = [one for one in wanted if one not in found]
        require(
            not missing,
            f"{name} reads the {kind} {', '.join(wanted)} of its data; missing: {', '.join(missing)}. Give "
            "them with stillhouse.Several.",
        )
    if student is not None:
        same_size(method, teacher.denoiser, student)


def same_size(method: Method, teacher: Denoiser, student: Denoiser) -> None:
    """Refuse, with a :class:`StillhouseError`, a student of another architecture where the method copies
    weights between the two.

    Arguments:
        method: one without ``same_size`` accepts any.
        teacher: one in closed form, which has no weights, is accepted.
        student: must have every weight of the teacher, in its shape.
    """
    if not method.same_size or isinstance(teacher, ExactDenoiser):
        return
    shapes = [{k: tuple(v.shape) for k, v in d.net.state_dict().items()} for d in (teacher, student)]
    count = [sum(p.numel() for p in d.parameters()) for d in (teacher, student)]
    sizes = f"({count[0]:,} weights, not {count[1]:,})"
    fits = shapes[0].items() <= shapes[1].items()
    require(
        fits,
        f"{type(method).__name__} needs a student of the teacher's size {sizes}; slimflow makes smaller "
        "ones.",
    )
