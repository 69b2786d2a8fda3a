"""Names as objects: the world, data and network that a run means. Models are in :mod:`stillhouse.api.models`,
systems in :mod:`stillhouse.api.system`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse.api.models import of_world
from stillhouse.api.system import requires
from stillhouse.core.conditions import Condition, cycled, drop_condition, move
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require, required, unknown
from stillhouse.core.schedules import process_from_config
from stillhouse.io.own import failure, is_own, names_code
from stillhouse.io.texts import read_text, token_rows
from stillhouse.model import Model
from stillhouse.models import build_model
from stillhouse.samplers.sampling import Sampling
from stillhouse.samplers.time_probe import rows_of, warn_of_times
from stillhouse.train.data import Data, InfiniteData, NoData, Prompts, TensorData, conditions_of
from stillhouse.train.run_folder import is_free
from stillhouse.worlds.base import World, open_world

DATA = ("auto", "world", "none")
EXAMPLES = 16  # conditions that a user's model is shown with
CONDITIONS = 4096  # of a world, for a run that needs nothing else


def world_of(world: World | str | Mapping[str, Any] | None) -> World | None:
    """The world of a name or configuration; an object, or None, as it is."""
    return open_world(world) if isinstance(world, str | Mapping) else world


def shown_with(base: Model, data: Data) -> Model:
    """A network of the user's own with the conditions of its data, where it came without any.

    Arguments:
        base: the model that a run begins with.
        data: the run's.

    Returns:
        The model with the data's number of classes, or with some of its conditions as ``examples``; as it is
        where it has conditions, or the data none.
    """
    if base.conditional or base.world or not is_own(base.denoiser.net):
        return base
    if data.classes:
        return replace(base, classes=data.classes)
    return replace(base, examples=data.examples(EXAMPLES))


def look_at_times(base: Model, data: Data) -> None:
    """One line where a network of the user's own seems to want its times otherwise than it is called.

    Arguments:
        base: the model that a run begins with.
        data: the run's, on which it is tried; conditions alone show nothing.
    """
    denoiser = base.denoiser
    if type(denoiser) is Denoiser and is_own(denoiser.net) and base.pipeline is None:
        x, cond = data.rows(0, Draws(rows_of(tuple(base.shape)), "times", device=denoiser.device))
        if x is not None:
            warn_of_times(denoiser, tuple(base.shape), cond, x)


def data_of(
    data: Data | tuple[Tensor, Condition] | str | Path | None,
    world: World | None,
    teacher: Model,
    method: Any,
    seed: int,
    cache: Path | None = None,
) -> Data:
    """Where the run's rows come from.

    Arguments:
        data: ``(x, cond)`` with ``x`` (N, *shape) and a condition of N rows or None; a :class:`Data`; a
            folder or file of images, prompts or texts; ``world``, ``none``, or ``auto`` and None for the
            world's if the system needs data, else conditions alone.
        world: needed for its own data and conditions; None for none.
        teacher: whose samples and conditions the rows are.
        method: the system, whose needs count.
        seed: of the order of the rows.
        cache: folder that encoded latents and prompts are kept in; None for none.

    Returns:
        The data.

    Raises:
        StillhouseError: for data that is not there, or that does not suit the system or the teacher.
    """
    if isinstance(data, tuple):
        x, cond = data
        labels = cond if torch.is_tensor(cond) and not cond.is_floating_point() else None
        fits = not teacher.classes or not torch.is_tensor(cond) or labels is not None
        require(fits, "The teacher takes labels, whole numbers, and the data's conditions are none.")
        return TensorData(x, cond, teacher.classes or (0 if labels is None else int(labels.max()) + 1), seed)
    data = "auto" if data is None else data
    if isinstance(data, Path) or (isinstance(data, str) and data not in DATA):
        from stillhouse.io.data.prompts import PROMPT_FILES
        from stillhouse.train.cached import data_for

        path, name = Path(data), type(method).__name__
        if not path.exists() and len(path.parts) == 1 and not path.suffix:
            raise unknown("kind of data", str(data), DATA)
        require(
            path.exists() or not names_code(str(data)),
            f"The code '{data}' runs only where you name it: --data {data}.",
        )
        known = f"neither one of {', '.join(DATA)}, nor a folder, a file of images or of prompts"
        require(path.exists(), f"There is no data '{data}': {known}.")
        if teacher.tokenizer is not None:
            return TensorData(token_rows(read_text(path), teacher.tokenizer, teacher.shape[0]), seed=seed)
        pictures = not requires(method, "data") or path.is_dir() or path.suffix not in PROMPT_FILES
        require(
            pictures,
            f"{name} learns from real data, and '{data}' holds prompts alone; give it pictures with "
            "captions.",
        )
        return data_for(teacher, data, cache=cache, seed=seed)
    if not isinstance(data, str):
        return data
    if data == "none" or (data == "auto" and not requires(method, "data")):
        return _conditions(world, teacher)
    world = required(world, f"{type(method).__name__} learns from real data; give it some, or name a world.")
    if world.infinite:
        return InfiniteData(world, labelled=teacher.conditional, model=teacher)
    x, labels = world.data("train")
    if not teacher.conditional:
        return TensorData(x, seed=seed)
    cond = world.condition(labels)
    return TensorData(teacher.denoiser.process.to_state(x, cond), cond, world.classes, seed)


def free_folder(out: str | Path | None, resume: bool) -> None:
    """Refuse a folder that a run can't be made in, before anything is written there.

    Arguments:
        out: the folder, new or empty; None for a run that writes nothing.
        resume: go on in it, whatever it holds.
    """
    require(out is not None or not resume, "To resume a run, give its folder.")
    if out is None or resume:
        return
    folder = Path(out)
    require(not folder.exists() or folder.is_dir(), f"'{folder}' is a file, not a folder.")
    require(
        is_free(folder),
        f"The folder '{folder}' is not empty; resume the run in it or give another name.",
    )


def _conditions(world: World | None, teacher: Model) -> Data:
    """A run without samples: labels, or the captions of a world."""
    if teacher.cond_kind:
        fits = world is not None and world.cond_kind == teacher.cond_kind
        world = required(
            world if fits else None,
            f"The teacher takes one {teacher.cond_kind} a sample; name a world of such.",
        )
        learnt, held_out = (
            world.condition(world.balanced_labels(CONDITIONS, split)) for split in ("train", "test")
        )
        return Prompts(tuple(teacher.shape), learnt, held_out)
    if teacher.text is None and not teacher.classes and teacher.examples is not None:
        return Prompts(tuple(teacher.shape), teacher.examples)
    if teacher.text is None:
        return NoData(tuple(teacher.shape), teacher.classes)
    world = required(
        world if world is not None and world.captions else None,
        "The teacher takes prompts; give a file of them: --data prompts.txt.",
    )
    learnt, held_out = (
        conditions_of(world, world.caption_ids(split), teacher) for split in ("train", "test")
    )
    return Prompts(tuple(teacher.shape), learnt, held_out)


def student_of(
    student: Denoiser | Model | Mapping[str, Any] | None,
    world: World | None,
    teacher: Model,
    method: Any,
    seed: int,
) -> Denoiser | None:
    """The denoiser that a method trains.

    Arguments:
        student: a denoiser or a model; options of ``world.network`` for a new network; None for the method's
            own choice, a new network where the teacher is a closed form.
        world: needed for a new network; None for none.
        teacher: whose process the new network has, and whose kind of prediction unless it is a closed form.
        method: makes the student of the network.
        seed: of the network's first weights.

    Returns:
        The denoiser; None for the method's own choice.
    """
    if isinstance(student, Denoiser | Model):
        return student.denoiser if isinstance(student, Model) else student
    require(
        student is None or isinstance(student, Mapping),
        f"A method makes its student from a network, width=64 for example, not from '{student}'.",
    )
    closed = isinstance(teacher.denoiser, ExactDenoiser)
    if student is None and not closed:
        return None
    world = required(world, "The student's network is of a world's size; name the world.")
    options = {"kind": world.default_kind if closed else teacher.denoiser.kind, **(student or {})}
    if not teacher.classes:
        options.setdefault("classes", 0)
    made: Denoiser | None = method.make_student(world.network(teacher.denoiser.process, seed, **options))
    return made


def callable_on(who: str, denoiser: Denoiser, teacher: Model, data: Data, *, hidden: bool = False) -> None:
    """Refuse a network that can't be called on the run's samples, before anything is written.

    Arguments:
        who: which network it is, for the error's message.
        denoiser: the one that is called, once, on two rows.
        teacher: whose samples' shape counts.
        data: whose conditions count.
        hidden: try a row without its condition beside one with it as well, as methods call it that hide some.
    """
    device = denoiser.device
    cond = move(cycled(data.examples(2), 2), device)
    mixed: Condition = None
    try:
        with torch.no_grad():
            start = denoiser.process.start(Draws(2, "fits", device=device), teacher.shape)
            denoiser.eval()(start, torch.ones(2, device=device), cond)
            if hidden and cond is not None:
                mixed = drop_condition(cond, torch.tensor([True, False]), denoiser.empty)
                denoiser(start, torch.ones(2, device=device), mixed)
    except StillhouseError:
        raise
    except Exception as error:  # a network of the user's may fail in any way
        rows = "" if mixed is None else " where a condition is hidden (load it with `empty`, or hide none)"
        raise StillhouseError(
            f"The {who} can't be called on samples of shape {tuple(teacher.shape)}{rows}: {failure(error)}."
        ) from error


def untrained(
    world: World | None,
    data: Any,
    network: Mapping[str, Any],
    process: str | Mapping[str, Any],
    kind: str,
    seed: int,
) -> Model:
    """The model that a run without a teacher begins with.

    Arguments:
        world: whose samples it makes; None for those of ``data``.
        data: tensors ``(x, cond)``, a :class:`Data`, or the path of images, whose first gives the size.
        network: options of the network; without a world ``name`` is ``unet`` unless given.
        process: how data becomes noise.
        kind: what the network predicts.
        seed: of its first weights.

    Returns:
        A many-step model with fresh weights.
    """
    made = process_from_config(process if isinstance(process, str) else dict(process))
    if world is not None:
        denoiser = world.network(made, seed, kind=kind, **network)
        return of_world(world, denoiser, {1: Sampling.steps(denoiser.process, 1)})
    require(
        data is not None and data not in DATA if not isinstance(data, tuple) else True,
        "Name what to train on: --world mnist, or --data with a folder of images.",
    )
    shape, classes = _shape_of(data, network)
    options = {"name": "unet", "classes": classes, **network}
    if len(shape) == 3 and options["name"] in ("unet", "dit"):
        options.setdefault("image_channels", shape[0])
    denoiser = Denoiser(build_model(options, seed), made, kind)
    steps = {1: Sampling.steps(made, 1)}
    return Model(denoiser, shape, options["classes"], steps, free_steps=True)


def _shape_of(data: Any, network: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """Shape of one sample of ``data``, and the number of its classes."""
    if isinstance(data, tuple):
        x, cond = data
        labelled = torch.is_tensor(cond) and not cond.is_floating_point()
        return tuple(x.shape[1:]), int(cond.max()) + 1 if labelled else 0
    if not isinstance(data, str | Path):
        return tuple(data.shape), data.classes
    require(Path(data).exists(), f"There is no data '{data}': neither a folder nor a file of images.")
    from stillhouse.io.data import open_source

    source = open_source(data)
    channels, image, labels = int(network.get("image_channels", 3)), None, []
    for row in source.rows():
        image = image or source.open(row)
        labels.append(row.label)
        if image is not None and row.label is None:
            break  # without a label on each there are no classes
    image = required(image, f"'{data}' holds no image that can be read.")
    numbers = [label for label in labels if label is not None]
    classes = max(numbers) + 1 if len(numbers) == len(labels) else 0
    return (channels, image.height, image.width), classes
