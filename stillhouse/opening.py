"""Opening a model: a product of ours, a shipped teacher, a Diffusers pipeline, a module."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from stillhouse.core.conditions import TextEncoder
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.core.prediction import Kind
from stillhouse.core.process import Process
from stillhouse.core.schedules import process_from_config
from stillhouse.io.language import is_language, open_language
from stillhouse.io.weights import companion_file, load_module
from stillhouse.model import WEIGHTS, Model, Network, pipeline_sampling
from stillhouse.models.letters import tokenizer_from
from stillhouse.models.words import Words
from stillhouse.samplers.sampling import Sampling

if TYPE_CHECKING:
    from stillhouse.io.pipelines import Family


def _text(described: dict[str, Any] | None) -> TextEncoder | None:
    """The text encoder that a header describes."""
    if described is None:
        return None
    return Words.from_description(described)


def shipped() -> dict[str, Path]:
    """Names of the teachers that come with the library and their files; for ``NAME-pipeline``, a Diffusers
    pipeline, its folder."""
    assets = Path(str(files("stillhouse") / "assets"))
    folders = {
        f"{f.parent.name}-pipeline": f.parent for f in sorted(assets.glob("pipelines/*/model_index.json"))
    }
    return {f.stem: f for f in sorted(assets.glob("teachers/*.safetensors"))} | folders


def _found(source: str | Path) -> str | Path:
    """Where a shipped name leads, unless something else lies there; any other source as it is."""
    return source if Path(source).exists() else shipped().get(str(source), source)


def _as_shipped(source: str | Path | Model | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options of opening a pipeline: a shipped one, whose files are half as large in float16, computes in
    float32 as the rest of what is shipped."""
    ours = not isinstance(source, Model) and Path(str(source)) in shipped().values()
    return {"dtype": torch.float32, **options} if ours else options


def _refuse(sentence: str, given: Mapping[str, bool]) -> None:
    """Refuse the options that were ``given``, by name, at the end of a sentence."""
    names = [name for name, was in given.items() if was]
    require(not names, f"{sentence} no {', '.join(names)}.")


def _saved_student(folder: Path, base: str | Path | Model | None, options: dict[str, Any]) -> Model:
    """What ``save_pretrained`` made of the student of a pipeline."""
    from stillhouse.io.export import open_student

    family, denoiser, companions, about = open_student(
        folder, base.pipeline if isinstance(base, Model) else base, **_as_shipped(base or folder, options)
    )
    return Model(
        denoiser,
        family.shape,
        family.classes,
        {int(k): Sampling.from_config(v) for k, v in about["samplings"].items()},
        about["free_steps"],
        about["world"],
        about["info"],
        text=family if family.tokenizers else None,
        prompts=tuple(about["prompts"]),
        codec=family.codec,
        pipeline=family,
        companions=dict(companions),
    )


def from_pipeline(family: Family) -> Model:
    """The many-step model of a Diffusers pipeline, walked as its own scheduler does; weights are shared with
    the pipeline."""
    return Model(
        family.denoiser(),
        family.shape,
        family.classes,
        {family.steps: pipeline_sampling(family, family.steps)},
        free_steps=True,
        text=family if family.tokenizers else None,
        codec=family.codec,
        pipeline=family,
    )


def _language(folder: Path, length: int | None = None) -> Model:
    """The masked language model in a folder of Transformers, a student of ours or any."""
    denoiser, tokenizer, length, about = open_language(folder, length)
    steps = min(64, length)
    walks = {int(k): Sampling.from_config(v) for k, v in about.get("samplings", {}).items()}
    walks = walks or {steps: Sampling.steps(denoiser.process, steps, solver="ancestral")}
    rest = {
        "free_steps": about.get("free_steps", True),
        "world": about.get("world", ""),
        "info": about.get("info", {}),
    }
    return Model(denoiser, (length,), samplings=walks, tokenizer=tokenizer, **rest)


def load(
    source: str | Path | nn.Module | Denoiser,
    *,
    process: Process | Mapping[str, Any] | str = "flow",
    kind: Kind | str = "velocity",
    shape: tuple[int, ...] | None = None,
    classes: int = 0,
    steps: int = 64,
    base: str | Path | Model | None = None,
    **pipeline: Any,
) -> Model:
    """Open a model, or a plain network.

    Arguments:
        source: a folder that ``save_pretrained`` wrote, or its file; a shipped name (``"mnist"``); a
            Diffusers pipeline, as a folder or ``"hub:owner/name"``; the folder of a masked language model of
            Transformers; a module or a :class:`Denoiser`.
        process: how data becomes noise, for a module alone: a process, its name or its configuration.
        kind: what the network predicts, for a module alone.
        shape: of one sample, for a module or a denoiser, which need it.
        classes: number of classes, 0 for none, for a module or a denoiser.
        steps: the default number of steps, for a module or a denoiser.
        base: the pipeline that a student saved as a LoRA was trained on; None for any other source.
        pipeline: the options of :func:`stillhouse.io.pipelines.open_pipeline`; of a masked language model
            ``length``, tokens of its texts [128, if it reads as many].

    Returns:
        The model; a :class:`stillhouse.model.Network` for a file that holds a network that is no denoiser.

    Raises:
        StillhouseError: for a missing, torn or foreign file, for a pickle, and for options that a source does
        not take.
    """
    own = {"process": process != "flow", "kind": kind != "velocity"}
    about = {"shape": shape is not None, "classes": classes != 0, "steps": steps != 64}
    if isinstance(source, nn.Module):
        _refuse("Loading a module takes", {**dict.fromkeys(pipeline, True), "base": base is not None})
        shape = required(shape, "Loading a module needs the shape of one sample, e.g. shape=(1, 32, 32).")
        if isinstance(source, Denoiser):
            _refuse("A denoiser has its own process and kind; loading one takes", own)
            denoiser = source
        else:
            made = process if isinstance(process, Process) else process_from_config(process)
            denoiser = Denoiser(source, made, kind)
        default = Sampling.steps(
            denoiser.process, steps, solver="ancestral" if denoiser.process.discrete else "heun"
        )
        return Model(denoiser, tuple(shape), classes, {steps: default}, free_steps=True)
    _refuse(f"What '{source}' holds is in its own files; opening it takes", own | about)
    source = _found(source)
    path = Path(source)
    if is_language(path):
        require(
            base is None and set(pipeline) <= {"length"},
            "A masked language model takes no option but the length of its texts.",
        )
        return _language(path, **pipeline)
    if base is not None or (path / "stillhouse.json").is_file():
        return _saved_student(path, _found(base) if isinstance(base, str) else base, pipeline)
    if (
        pipeline
        or str(source).startswith("hub:")
        or ((path / "model_index.json").is_file() and not (path / WEIGHTS).exists())
    ):
        from stillhouse.io.pipelines import open_pipeline

        return from_pipeline(open_pipeline(source, **_as_shipped(source, pipeline)))
    require(
        path.exists(),
        f"There is no model '{source}': neither a file or folder, nor a shipped teacher "
        f"({', '.join(shipped()) or 'none'}).",
    )
    if path.is_dir():
        require(
            (path / WEIGHTS).exists(),
            f"The folder '{path}' holds no {WEIGHTS} and no model_index.json: no model and no pipeline.",
        )
        path = path / WEIGHTS
    module, info = load_module(path)
    if not isinstance(module, Denoiser):
        require({"inputs", "outputs"} <= set(info), f"'{path}' is a part of a model; open its folder.")
        # nearly always it is a model; every caller would have to check otherwise
        return cast(Model, Network(module, info.pop("inputs"), info.pop("outputs"), info))
    return _saved_model(path, module, info)


def _saved_model(path: Path, denoiser: Denoiser, info: dict[str, Any]) -> Model:
    """The model of a file of ours that holds ``denoiser``, and ``info`` in its header."""
    try:
        samplings = {int(k): Sampling.from_config(v) for k, v in info.pop("samplings").items()}
        known = (
            tuple(info.pop("shape")),
            info.pop("classes"),
            samplings,
            info.pop("free_steps"),
            info.pop("world"),
        )
        text, prompts = info.pop("text", None), tuple(info.pop("prompts", ()))
        cond_kind = info.pop("cond_kind", info.pop("told", ""))  # `told`: files of before
        # `inverse`: the one companion of before
        names = info.pop("companions", ["inverse"] if info.pop("inverse", "") else [])
        companions = {name: load_module(companion_file(path, name))[0] for name in names}
        tokenizer = tokenizer_from(info.pop("tokenizer", None))
        return Model(
            denoiser,
            *known,
            info,
            _text(text),
            prompts,
            companions=companions,
            cond_kind=cond_kind,
            tokenizer=tokenizer,
        )
    except KeyError as error:
        raise StillhouseError(
            f"'{path}' lacks {error} in its header; it was not written by save_pretrained."
        ) from error
