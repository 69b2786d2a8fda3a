"""Names as models: the teacher of a run, a product in a folder, code that a user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.api.evaluate import exact_teacher
from stillhouse.api.run import CONFIG, OPENING, recorded_entries
from stillhouse.api.trust import from_cache, require_adapter
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require, required, required_type
from stillhouse.core.schedules import process_from_config
from stillhouse.io.checked import ABOUT
from stillhouse.io.own import names_code
from stillhouse.io.pipelines.index import INDEX
from stillhouse.io.weights import own_network
from stillhouse.model import WEIGHTS, Model, Network
from stillhouse.opening import load, model_of, shipped
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import World


def default_teacher(world: World | None) -> str:
    """Name of the teacher that a world has: the shipped one, or its closed form where there is none or the
    world has options."""
    world = required(world, "Name a teacher, or a world that has one.")
    plain = getattr(world, "config", None) == {"name": world.name}
    return world.name if plain and world.name in shipped() else "exact"


def teacher_of(
    teacher: Model | Denoiser | str | Path,
    world: World | None,
    adapter: str | None = None,
    network: Any = None,
    opening: Mapping[str, Any] | None = None,
) -> Model:
    """The teacher of a run.

    Arguments:
        teacher: a model; a denoiser of the world's samples; ``exact`` or ``exact:PROCESS``, the world's
            closed form; or what :func:`open_model` takes.
        world: needed for a denoiser and a closed form; None for none.
        adapter: how a Diffusers pipeline of an unknown kind is read, ``./file.py:Class``; None for a known
            one.
        network: the code of a network of the user's own, as :func:`stillhouse.load` takes it; None for none.
        opening: size and precision of a pipeline that is opened.

    Returns:
        The model.

    Raises:
        StillhouseError: where a world is needed and none given, or nothing can be opened.
    """
    named = isinstance(teacher, str | Path) and str(teacher).partition(":")[0] != "exact"
    require(
        named or not opening,
        f"Only a Diffusers pipeline that is opened here takes a {', '.join(opening or ())}.",
    )
    if isinstance(teacher, Model):
        return teacher
    if isinstance(teacher, Denoiser):
        world = required(
            world,
            "The shape of a bare denoiser's samples is unknown; name a world, or load it with its shape.",
        )
        steps = {64: Sampling.steps(teacher.process, 64)}
        return of_world(world, teacher, steps)
    name, _, process = str(teacher).partition(":")
    if name != "exact":
        return open_model(teacher, adapter, network, **(opening or {}))
    world = required(world, "The closed-form teacher is a world's; name the world.")
    return exact_teacher(world, process_from_config(process or world.default_process))


def of_world(world: World, denoiser: Denoiser, samplings: dict[int, Sampling]) -> Model:
    """A many-step model of a world's samples.

    Arguments:
        world: what the model makes, and its texts.
        denoiser: of the world's samples.
        samplings: by number of steps, the default first.

    Returns:
        The model.
    """
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


def open_model(source: str | Path, adapter: str | None = None, network: Any = None, **opening: Any) -> Model:
    """Open a model to sample from.

    Arguments:
        source: what :func:`stillhouse.load` takes, or the folder of a finished run; no code.
        adapter: how a Diffusers pipeline of an unknown kind is read, ``./file.py:Class``; None for a known
            one.
        network: the code of a network of the user's own, where ``source`` holds the weights of one.
        opening: the further options of :func:`stillhouse.load`: ``base``, ``config``, ``prediction``,
            ``height``, ``dtype`` ….

    Returns:
        The model.

    Raises:
        StillhouseError: for a plain network, which makes no samples, and for a run without a model yet.
    """
    return required_type(
        open_product(source, adapter, network, **opening),
        Model,
        f"'{source}' holds a plain network, which makes no samples; open it in Python with stillhouse.load.",
    )


def open_product(
    source: str | Path, adapter: str | None = None, network: Any = None, **opening: Any
) -> Model | Network:
    """Open the product of a system.

    Arguments:
        source: what :func:`stillhouse.load` takes, or the folder of a finished run; code is not run here,
            since the name may stand in a file.
        adapter: how a Diffusers pipeline of an unknown kind is read, ``./file.py:Class``; None for a known
            one.
        network: the code of a network of the user's own, as :func:`stillhouse.load` takes it; it counts where
            ``source`` holds the weights of such a network. None for none.
        opening: the further options of :func:`stillhouse.load`.

    Returns:
        A model or a plain network.

    Raises:
        StillhouseError: for a run without a model yet, for a name of code, for a run whose pipeline is read
            by code that is not given, and for a size of what is no pipeline.
    """
    folder = Path(source)
    require(
        folder.exists() or not names_code(source),
        f"The code '{source}' runs only where you name it: --teacher {source}, or --network {source} "
        "beside the "
        "folder of its weights.",
    )
    if (folder / CONFIG).exists():
        lost = f": its 'model' holds no {WEIGHTS}" if (folder / "model").is_dir() else ""
        require(
            has_product(folder), f"The run in '{source}' has made no model yet{lost}; resume it to its end."
        )
        require_adapter(recorded_entries(folder / CONFIG), adapter, folder)
        source = folder / "model"
    sizes = [name for name in OPENING if opening.get(name) is not None]
    if sizes:
        place = shipped().get(str(source), Path(source))
        piped = any((place / name).is_file() for name in (INDEX, ABOUT))
        require(
            piped or str(source).startswith("hub:"),
            f"'{source}' is no Diffusers pipeline, which alone takes a {', '.join(sizes)}.",
        )
    if network is not None and holds_own(source):
        return load(source, network=network, **opening)
    if adapter:
        opening["adapter"] = adapter
    return load(source, **opening)


def named_model(source: str | Path, network: Any = None, **opening: Any) -> Model:
    """Open a model that a caller named just now, on the command line: code is run.

    Arguments:
        source: what :func:`open_model` takes, or ``FILE.py:NAME``.
        network: as of :func:`open_model`.
        opening: likewise.

    Returns:
        The model.
    """
    code = names_code(source) and not Path(source).is_dir()
    return model_of(str(source)) if code else open_model(source, network=network, **opening)


def teacher_of_run(
    entries: Mapping[str, Any],
    world: World | None,
    teacher: str | None = None,
    network: str | None = None,
    adapter: str | None = None,
    **opening: Any,
) -> Model | None:
    """The teacher that a run's product is looked at beside.

    Arguments:
        entries: of the run's file; none for a model that is no run's.
        world: the run's; None for none.
        teacher: a teacher that was named just now, in the place of the run's; None for that.
        network: code that was named just now; if the run's teacher is this code, it is run.
        adapter: how the teacher's pipeline is read, named just now; None for a known kind.
        opening: size and precision that a pipeline is opened in, before those that the run had.

    Returns:
        The model; None where the run has none by name.

    Raises:
        StillhouseError: where the run's teacher is code, or is read by code, that nobody named; and where it
            is a hub's that was never fetched.
    """
    source = teacher or entries.get("teacher")
    if not source:
        return None
    if names_code(source):
        require(
            source in (teacher, network),
            f"The run's teacher is code, {source}, which runs only where you name it: add --teacher "
            f"{source}.",
        )
        return model_of(source)
    if not teacher:
        require_adapter(entries, adapter, source)
        opening = {k: v for k in OPENING if (v := entries.get(k))} | from_cache(source) | opening
    return teacher_of(source, world, adapter, network, opening)


def has_product(folder: Path) -> bool:
    """Whether the folder of a run holds a whole product: the file that is written last."""
    return any((folder / "model" / name).is_file() for name in (WEIGHTS, ABOUT))


def holds_own(source: str | Path) -> bool:
    """Whether a file, or the folder of a model, holds the weights of a network of the user's own."""
    path = Path(source)
    return own_network(path / WEIGHTS if path.is_dir() else path) is not None
