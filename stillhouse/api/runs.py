"""What a Python user calls: make a student from a teacher, or a model from data. The command line runs the
same :class:`~stillhouse.api.run.Run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.api.execute import Memory, execute, run_named
from stillhouse.api.models import open_model as open_model
from stillhouse.api.models import teacher_of as teacher_of
from stillhouse.api.options import fields_of
from stillhouse.api.resolve import data_of as data_of
from stillhouse.api.run import CACHE as CACHE
from stillhouse.api.run import CONFIG as CONFIG
from stillhouse.api.run import OPENING, Run
from stillhouse.api.system import name_of, split_options, system_class
from stillhouse.api.validation import prompts_of
from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.precision import dtype_name
from stillhouse.core.structure import Structure, checked, shown
from stillhouse.io.inside import possible
from stillhouse.model import Model
from stillhouse.systems.base import Operation, Program
from stillhouse.train.data import Data, require_rows
from stillhouse.train.method import Method
from stillhouse.worlds.base import World

System = Method | Operation | Program
# the types of what is given
COMMON: dict[str, Structure] = {
    "world": (World, str, Mapping, None),
    "out": (str, Path, None),
    "resume": bool,
    "quiet": bool,
}
DISTILL = {
    **COMMON,
    "teacher": (Model, Denoiser, str, Path, None),
    "student": (Denoiser, Model, Mapping, str, Path, None),
    "adapter": (str, None),
    "negative_prompt": (str, None),
    "validation_prompts": (str, Path, [(str, Path)]),
    **{f"{name}?": (int, None) for name in ("height", "width", "frames")},
    "dtype?": (str, torch.dtype, None),
}
TRAIN = {
    **COMMON,
    "network": (Model, str, Mapping, None),
    "process": (str, Mapping, None),
    "kind": (str, None),
}
PATHS = ("teacher", "world", "student", "data", "out", "adapter", "network")


def distill(
    teacher: Model | Denoiser | str | Path | None,
    method: str | type[System] | System,
    *,
    world: World | str | Mapping[str, Any] | None = None,
    data: Data | tuple[Tensor, Condition] | str | Path | None = None,
    student: Denoiser | Model | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    adapter: str | None = None,
    negative_prompt: str | None = None,
    network: Any = None,
    validation_prompts: Sequence[str] | str | Path = (),
    **options: Any,
) -> Model:
    """Make a product of ``teacher`` by any system that has one; with ``out`` the run's files and
    ``out/model`` are kept there.

    Arguments:
        teacher: a model, a run's folder, what :func:`stillhouse.load` takes, ``"exact"`` or
            ``"exact:PROCESS"`` (the world's closed form), code of yours (``"net.py:make_teacher"``), or None:
            the world's shipped teacher, or its closed form where there is none or the world has options. The
            run records which.
        method: a slug, a file (``"./my.py:MyMethod"``), a class or an instance: a method is trained, an
            operation applied, a program run part by part.
        world: needed where the teacher does not name one and data or a network must come from it.
        data: ``(x, cond)`` with ``x`` (N, *shape) and a condition of N rows or None; a :class:`Data`; a
            folder of images with captions, parquet files, webdataset shards, or a file of prompts; code of
            yours that gives one of these objects, ``"net.py:make_data"``; ``"world"``, ``"none"``, or None:
            the world's if the system learns from data.
        student: for a method a denoiser, or options of ``world.network`` for the network that it makes its
            student from, in the teacher's place; for an operation that needs a student, a model or its
            folder.
        out: folder of the run, new or empty.
        resume: go on with the run in ``out``.
        quiet: no progress bar.
        adapter: how a Diffusers pipeline of an unknown kind is read, ``"./file.py:Class"``.
        negative_prompt: what the teacher is guided away from, in the place of the empty prompt; "" for none;
            None for the system's own, which text-to-video pipelines have under ``causvid`` and ``livetalk``.
        network: the code of a network of yours, for a teacher that is a folder of its weights; as
            :func:`stillhouse.load` takes it.
        validation_prompts: prompts, or the file of some, that the student is sampled with every
            ``validation_every`` iterations, into ``out/validation``.
        options: fields of the system and of :class:`Recipe`, whose ``steps`` are called ``iterations`` here;
            where both have a name it is the system's, and the run's has ``run_`` before it. Of a Diffusers
            pipeline that is opened here also ``height``, ``width``, ``frames`` and ``dtype`` of its frozen
            weights (``fp32``, ``bf16``, ``fp16``; its files' own unless given).

    Returns:
        The product. Raises :class:`StillhouseError` for anything that does not fit, before anything is
        written.
    """
    _check({**locals(), **options}, DISTILL, "distill can't run")
    mine = fields_of(system_class(method))
    opening = {name: options.pop(name) for name in OPENING if name in options and name not in mine}
    if isinstance(opening.get("dtype"), torch.dtype):
        opening["dtype"] = dtype_name(opening["dtype"])
    run, memory = _described(method, options, world, data, out)
    run = replace(run, adapter=adapter, negative_prompt=negative_prompt, **opening)
    run.validation_prompts = prompts_of(validation_prompts)
    run.teacher = str(teacher) if isinstance(teacher, str | Path) else None
    memory.teacher = None if isinstance(teacher, str | Path) else teacher
    if isinstance(student, str | Path):
        run.student = str(student)
    elif isinstance(student, Mapping):
        run.student = dict(student)
    elif student is not None:
        run.student, memory.student = None, student
    run.network, memory.network = network if isinstance(network, str) else None, network
    run_named(run, memory)
    return execute(run, memory, resume=resume, quiet=quiet)


def train_model(
    system: str | type[System] | System = "denoising",
    *,
    world: World | str | Mapping[str, Any] | None = None,
    data: Data | tuple[Tensor, Condition] | str | Path | None = None,
    network: Mapping[str, Any] | Model | str | None = None,
    process: str | Mapping[str, Any] | None = None,
    kind: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Model:
    """Train a model from data alone, by a system that has no teacher. None is opened.

    Arguments:
        system: as in :func:`distill`; plain denoising by default.
        world: its data, and networks of its size.
        data: as in :func:`distill`; without a world the samples' shape is the data's.
        network: options of ``world.network``, or of the network: ``name``, ``channels`` …; or a network of
            yours, as a model (``stillhouse.load(module, shape=…)``) or as code that makes one.
        process: how data becomes noise; None: as is usual in the world, ``flow`` without one.
        kind: what the network predicts; None: as is usual in the world, ``velocity`` without one.
        out: folder of the run, new or empty.
        resume: go on with the run in ``out``.
        quiet: no progress bar.
        options: as in :func:`distill`.

    Returns:
        The trained model.
    """
    _check({**locals(), **options}, TRAIN, "train can't run")
    run, memory = _described(system, options, world, data, out)
    run.command, run.process, run.kind = "train", process, kind
    if isinstance(network, Model):
        run.network, memory.network = None, network
    else:
        run.network = network or {}
    run_named(run, memory)
    return execute(run, memory, resume=resume, quiet=quiet)


def train_teacher(
    world: World | str | Mapping[str, Any], network: Mapping[str, Any] | None = None, **given: Any
) -> Model:
    """:func:`train_model` by plain denoising in a world.

    Arguments:
        world: its data, and networks of its size.
        network: options of ``world.network``; None for its defaults.
        given: the further arguments of :func:`train_model`.

    Returns:
        The trained model.
    """
    return train_model("denoising", world=world, network=network, **given)


def _check(given: Mapping[str, Any], structure: Structure, source: str) -> None:
    """Refuse arguments of another type, and texts that can name nothing, before anything is opened."""
    checked(given, structure, source)
    for name in PATHS:
        value = given.get(name)
        named = not isinstance(value, str | Path) or possible(value)
        require(named, f"{source}: '{name}' holds a zero byte, or is longer than any path.")
    data = given["data"]
    if data is None or isinstance(data, str | Path):
        return
    if isinstance(data, tuple):
        require_rows(data, source)
        return
    sound = all(hasattr(data, name) for name in ("shape", "classes", "rows", "examples"))
    require(
        sound,
        f"{source}: 'data' is (x, cond), a Data, a folder, a file or a word, not {shown(data)}.",
    )


def _described(
    system: str | type[System] | System, options: Mapping[str, Any], world: Any, data: Any, out: Any
) -> tuple[Run, Memory]:
    """What ``distill`` and ``train`` have in common, as a run and the objects that stand beside it."""
    own, recipe = split_options(system_class(system), options)
    slug = system if isinstance(system, str) else name_of(system)
    memory = Memory(system=None if isinstance(system, str) else system)
    run = Run(system=slug, options=own, recipe=recipe, out=out)
    if isinstance(world, str | Mapping):
        run.world = world
    else:
        memory.world = world
    if isinstance(data, str | Path):
        run.data = str(data)
    elif data is not None:
        run.data, memory.data = None, data
    return run, memory
