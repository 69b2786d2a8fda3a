"""What a Python user calls: make a student from a teacher, or a teacher from data. The command line calls the
same."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from stillhouse import forms
from stillhouse.api.evaluate import exact_teacher, versions
from stillhouse.api.options import build, build_recipe, fields_of, read_yaml, recipe_entries, run_fields
from stillhouse.core.conditions import Condition, cycled, move
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.process import process_from_config
from stillhouse.core.spellings import current_options
from stillhouse.io.texts import read_text, token_rows
from stillhouse.io.weights import atomic_write
from stillhouse.model import Model, load, shipped
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.registry import find
from stillhouse.systems.training.denoising import Denoising
from stillhouse.train.data import Data, InfiniteData, NoData, Prompts, TensorData, conditions_of
from stillhouse.train.loop import Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import WORLDS, World, get_world, open_world

CONFIG, CACHE = "run.yaml", "cache"  # in a run's folder
DATA = ("auto", "world", "none")
CONDITIONS = 4096  # of a world, for a run that needs nothing else


def distill(
    teacher: Model | Denoiser | str | Path | None,
    method: str | type[Method] | Method,
    *,
    world: World | str | Mapping[str, Any] | None = None,
    data: Data | tuple[Tensor, Condition] | str | Path | None = None,
    student: Denoiser | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    adapter: str | None = None,
    **options: Any,
) -> Model:
    """Make a student of ``teacher`` by ``method`` and return it; with ``out`` the run's files and
    ``out/model`` are kept there.

    ``teacher``: a model, a run's folder, what :func:`stillhouse.load` takes, ``"exact"`` or
    ``"exact:PROCESS"`` (the world's closed form), or None: the world's shipped teacher, or its closed form
    where there is none or the world has options. ``method``: a slug, a file (``"./my.py:MyMethod"``), a class
    or an instance. ``world``: needed where the teacher does not name one and data or a network must come from
    it. ``data``: ``(x, cond)`` with ``x`` (N, *shape) and a condition of N rows or None; a :class:`Data`; a
    folder of images with captions, parquet files, webdataset shards, or a file of prompts; ``"world"``,
    ``"none"``, or None: the world's if the method learns from data. ``student``: a denoiser, or options of
    ``world.network`` for the network that the method makes its student from, in the teacher's place.
    ``adapter``: how a Diffusers pipeline of an unknown kind is read, ``"./file.py:Class"``. ``options``:
    fields of the method and of :class:`Recipe`, whose ``steps`` are called ``iterations`` here; where both
    have a name it is the method's, and the run's has ``run_`` before it.

    Raises :class:`StillhouseError` for anything that does not fit, before anything is written.
    """
    _free(out, resume)
    method, recipe = _split(method, options)
    place = _world(world, teacher)
    if teacher is None:
        require(place is not None, "Name a teacher, or a world that has one.")
        assert place is not None
        teacher = (
            place.name
            if place.name in shipped() and getattr(place, "config", None) == {"name": place.name}
            else "exact"
        )
    named = str(teacher) if isinstance(teacher, str | Path) else None
    teacher = teacher_of(teacher, place, adapter)
    if place is None and teacher.world in WORLDS:
        place = get_world(teacher.world)
    source = data_of(data, place, teacher, method, recipe.seed, Path(out) / CACHE if out else None)
    learner = _student(student, place, teacher, method, recipe.seed)
    config = {
        "command": "distill",
        "method": _name(method),
        "teacher": named,
        **({"adapter": adapter} if adapter else {}),
        "world": getattr(place, "config", None),
        "data": str(data)
        if isinstance(data, str | Path)
        else "auto"
        if data is None
        else None,  # None: an object in memory
        "student": dict(student) if isinstance(student, Mapping) else {} if student is None else None,
        "options": method.describe()["options"],
        "run": recipe_entries(recipe),
    }
    return _run(method, teacher, source, recipe, learner, config, out, resume, quiet)


def train_teacher(
    world: World | str | Mapping[str, Any],
    network: Mapping[str, Any] | None = None,
    *,
    process: str | Mapping[str, Any] | None = None,
    kind: str | None = None,
    data: Data | tuple[Tensor, Tensor | None] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Model:
    """Train a model from a world's data and return it.

    ``network``: options of ``world.network``. ``process``, ``kind``: how data becomes noise and what the
    network says; None: as is usual in the world. The others as in :func:`distill`.
    """
    _free(out, resume)
    method, recipe = _split(Denoising, options)
    place = _world(world, None)
    assert place is not None
    process, kind = place.default_process if process is None else process, kind or place.default_kind
    process = process if isinstance(process, str) else dict(process)
    denoiser = place.network(process_from_config(process), recipe.seed, kind=kind, **(network or {}))
    fresh = _of_world(place, denoiser, {1: Sampling.steps(denoiser.process, 1)})
    config = {
        "command": "train",
        "world": getattr(place, "config", None),
        "network": dict(network or {}),
        "process": process,
        "kind": kind,
        "options": method.describe()["options"],
        "run": recipe_entries(recipe),
    }
    return _run(
        method,
        fresh,
        data_of(data, place, fresh, method, recipe.seed),
        recipe,
        None,
        config,
        out,
        resume,
        quiet,
    )


def teacher_of(
    teacher: Model | Denoiser | str | Path, world: World | None, adapter: str | None = None
) -> Model:
    """The teacher that was meant; see :func:`distill`."""
    if isinstance(teacher, Model):
        return teacher
    if isinstance(teacher, Denoiser):
        require(
            world is not None,
            "A bare denoiser does not say what its samples are; name a world, or load it with its shape.",
        )
        assert world is not None
        steps = {64: Sampling.steps(teacher.process, 64)}
        return _of_world(world, teacher, steps)
    name, _, process = str(teacher).partition(":")
    if name != "exact":
        return open_model(teacher, adapter)
    require(world is not None, "The closed-form teacher is a world's; name the world.")
    assert world is not None
    return exact_teacher(world, process_from_config(process or world.default_process))


def _of_world(world: World, denoiser: Denoiser, samplings: dict[int, Sampling]) -> Model:
    """A many-step model of a world's samples."""
    shown = world.balanced_labels(16) if world.captions else None
    prompts = () if shown is None else tuple(world.captions[int(i)] for i in shown)
    spoken = {
        "text": world.text,
        "prompts": prompts,
        "cond_kind": world.cond_kind,
        "tokenizer": world.tokenizer,
    }
    info = {"scales": world.scales} if hasattr(world, "scales") else {}
    return Model(
        denoiser,
        world.shape,
        world.classes,
        samplings,
        free_steps=True,
        world=world.name,
        info=info,
        **spoken,  # type: ignore[arg-type]
    )


def open_model(source: str | Path, adapter: str | None = None) -> Model:
    """What :func:`stillhouse.load` takes, or the folder of a run that has come to its end."""
    folder = Path(source)
    if (folder / CONFIG).exists():
        require(
            (folder / "model").is_dir(), f"The run in '{source}' has made no model yet; resume it to its end."
        )
        adapter, source = adapter or read_yaml(folder / CONFIG).get("adapter"), folder / "model"
    return load(source, adapter=adapter) if adapter else load(source)


def data_of(
    data: Data | tuple[Tensor, Condition] | str | Path | None,
    world: World | None,
    teacher: Model,
    method: Method,
    seed: int,
    cache: Path | None = None,
) -> Data:
    """Where the run's rows come from; see :func:`distill`. ``cache``: where latents and embeddings are
    kept."""
    if isinstance(data, tuple):
        x, cond = data
        labelled = torch.is_tensor(cond) and not cond.is_floating_point()
        return TensorData(x, cond, teacher.classes or (int(cond.max()) + 1 if labelled else 0), seed)
    data = "auto" if data is None else data
    if isinstance(data, Path) or (isinstance(data, str) and data not in DATA):
        from stillhouse.train.cached import PROMPT_FILES, data_for

        path, name = Path(data), type(method).__name__
        if not path.exists() and len(path.parts) == 1 and not path.suffix:
            raise unknown("kind of data", str(data), DATA)
        known = f"neither one of {', '.join(DATA)}, nor a folder, a file of images or of prompts"
        require(path.exists(), f"There is no data '{data}': {known}.")
        if teacher.tokenizer is not None:
            return TensorData(token_rows(read_text(path), teacher.tokenizer, teacher.shape[0]), seed=seed)
        pictures = not method.requires("data") or path.is_dir() or path.suffix not in PROMPT_FILES
        require(
            pictures,
            f"{name} learns from real data, and '{data}' holds prompts alone; give it pictures with "
            "captions.",
        )
        return data_for(teacher, data, cache=cache, seed=seed)
    if not isinstance(data, str):
        return data
    if data == "none" or (data == "auto" and not method.requires("data")):
        return _conditions(world, teacher)
    require(
        world is not None, f"{type(method).__name__} learns from real data; give it some, or name a world."
    )
    assert world is not None
    if world.infinite:
        return InfiniteData(world, labelled=teacher.conditional, model=teacher)
    x, labels = world.data("train")
    if not teacher.conditional:
        return TensorData(x, seed=seed)
    cond = world.condition(labels)
    return TensorData(teacher.denoiser.process.to_state(x, cond), cond, world.classes, seed)


def _free(out: str | Path | None, resume: bool) -> None:
    """Refuse a folder that a run can't be made in, before anything is written there."""
    require(out is not None or not resume, "To resume a run, give its folder.")
    if out is None or resume:
        return
    folder = Path(out)
    require(not folder.exists() or folder.is_dir(), f"'{folder}' is a file, not a folder.")
    # a run that was refused after its data had been encoded leaves that behind, and no run
    busy = folder.exists() and any(entry.name != CACHE for entry in folder.iterdir())
    require(not busy, f"The folder '{folder}' is not empty; resume the run in it or give another name.")


def _conditions(world: World | None, teacher: Model) -> Data:
    """A run without samples: labels, or the captions of a world."""
    if teacher.cond_kind:
        require(
            world is not None and world.cond_kind == teacher.cond_kind,
            f"The teacher is told one {teacher.cond_kind} a sample; name a world of such.",
        )
        assert world is not None
        learnt, held_out = (
            world.condition(world.balanced_labels(CONDITIONS, split)) for split in ("train", "test")
        )
        return Prompts(tuple(teacher.shape), learnt, held_out)
    if teacher.text is None:
        return NoData(tuple(teacher.shape), teacher.classes)
    require(
        world is not None and bool(world.captions),
        "The teacher takes prompts; give a file of them: --data prompts.txt.",
    )
    assert world is not None
    learnt, held_out = (
        conditions_of(world, world.caption_ids(split), teacher) for split in ("train", "test")
    )
    return Prompts(tuple(teacher.shape), learnt, held_out)


def _run(
    method: Method,
    teacher: Model,
    data: Data,
    recipe: Recipe,
    student: Denoiser | None,
    config: dict[str, Any],
    out: str | Path | None,
    resume: bool,
    quiet: bool,
) -> Model:
    for who, denoiser in (("teacher", teacher.denoiser), ("student", student)):
        if denoiser is not None:
            _fits(who, denoiser, teacher, data)
    folder = Path(out) if out else None

    def grid(step: int, samples: Tensor) -> None:
        if folder:
            forms.of(teacher).save_grid(folder / "grids" / f"step-{step:08d}", teacher, samples)

    info: dict[str, Any] = {k: config[k] for k in ("teacher", "student", "network", "run") if k in config}
    info |= {
        k: teacher.info[k] for k in ("scales",) if k in teacher.info
    }  # a student's numbers are scaled as its teacher's are
    trainer = Trainer(
        method, teacher, data, recipe, student=student, out=folder, quiet=quiet, on_grid=grid, info=info
    )
    trainer.engine.wait()  # every process has looked at the folder before the first file appears in it
    if folder and trainer.engine.main and not (resume and (folder / CONFIG).exists()):
        text = yaml.safe_dump(
            {**_listed(config), "versions": versions()}, sort_keys=False, allow_unicode=True
        )
        atomic_write(folder / CONFIG, text.encode())
    trainer.engine.wait()
    model = trainer.fit(resume=folder is not None)
    if folder and trainer.engine.main and model.pipeline is not None:
        _show_in(folder)
    return model


def _show_in(folder: Path) -> None:
    """Let the run's folder open in Diffusers as its ``model`` does: by a link to each part, where the file
    system has links."""
    for part in (folder / "model").iterdir():
        with contextlib.suppress(OSError):
            (folder / part.name).symlink_to(Path("model") / part.name)


def _split(method: str | type[Method] | Method, options: Mapping[str, Any]) -> tuple[Method, Recipe]:
    """The method and the recipe that ``options`` belong to, each its own."""
    kind = find(method) if isinstance(method, str) else method if isinstance(method, type) else type(method)
    require(issubclass(kind, Method), f"{kind.__name__} is not a Method.")
    mine = fields_of(kind)
    runs = run_fields(mine)
    options = current_options(options, {**runs, **mine})
    for name in options:
        if name not in mine and name not in runs:
            raise unknown(f"option of {kind.__name__} named", name, [*mine, *runs])
    own = {k: v for k, v in options.items() if k in mine}
    plain = run_fields()
    recipe = build_recipe(
        {next(p for p, f in plain.items() if f == runs[k]): v for k, v in options.items() if k not in mine}
    )
    made = replace(method, **own) if isinstance(method, Method) else build(kind, own, kind.__name__)
    return made, recipe


def _world(world: World | str | Mapping[str, Any] | None, teacher: Any) -> World | None:
    return open_world(world) if isinstance(world, str | Mapping) else world


def _student(
    student: Denoiser | Mapping[str, Any] | None,
    world: World | None,
    teacher: Model,
    method: Method,
    seed: int,
) -> Denoiser | None:
    if isinstance(student, Denoiser):
        return student
    closed = isinstance(teacher.denoiser, ExactDenoiser)
    if student is None and not closed:
        return None
    require(world is not None, "The student's network is of a world's size; name the world.")
    assert world is not None
    options = {"kind": world.default_kind if closed else teacher.denoiser.kind, **(student or {})}
    if not teacher.classes:
        options.setdefault("classes", 0)
    return method.make_student(world.network(teacher.denoiser.process, seed, **options))


def _fits(who: str, denoiser: Denoiser, teacher: Model, data: Data) -> None:
    """Refuse a network that can't be called on the run's samples, before anything is written."""
    device = denoiser.device
    cond = move(cycled(data.examples(2), 2), device)
    try:
        with torch.no_grad():
            start = denoiser.process.start(Draws(2, "fits", device=device), teacher.shape)
            denoiser.eval()(start, torch.ones(2, device=device), cond)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        line = str(error).strip().splitlines()[0]
        raise StillhouseError(
            f"The {who} can't be called on samples of shape {tuple(teacher.shape)}: {line}."
        ) from error


def _name(method: Method) -> str | None:
    """What :func:`find` finds the method again by; None for a class that lives in no file of its own."""
    kind = type(method)
    if kind.__module__.startswith("stillhouse.systems."):
        return kind.__module__.rpartition(".")[2]
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return f"{Path(file).resolve()}:{kind.__name__}" if file else None


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down: plain YAML has no tuples."""
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, tuple | list) else value
