"""Opening a model: a product of ours, a shipped teacher, a Diffusers pipeline, a module."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from stillhouse.core.conditions import Condition, TextEncoder, balanced_labels, require_condition
from stillhouse.core.denoiser import Call, Denoiser, call_plain
from stillhouse.core.errors import StillhouseError, require, required, unknown
from stillhouse.core.prediction import Kind
from stillhouse.core.process import Process
from stillhouse.core.schedules import process_from_config
from stillhouse.core.structure import Structure, checked
from stillhouse.io.checked import ABOUT
from stillhouse.io.inside import possible
from stillhouse.io.language import is_language, open_language
from stillhouse.io.own import is_own, names_code, require_whole, run_code, unwrapped
from stillhouse.io.weights import companion_file, kind_from_config, load_module, own_network
from stillhouse.model import MOST_STEPS, WEIGHTS, Model, Network, pipeline_sampling
from stillhouse.models.letters import tokenizer_from
from stillhouse.models.words import Words
from stillhouse.samplers.sampling import Sampling
from stillhouse.samplers.time_probe import rows_of, warn_of_times

if TYPE_CHECKING:
    from stillhouse.io.pipelines import Family

log = logging.getLogger("stillhouse")
# what the header of a model's file says of it, beside its denoiser
HEADER = {
    "shape": [int],
    "classes": int,
    "samplings": {"*": dict},
    "free_steps": bool,
    "world": str,
    **{f"{name}?": (dict, None) for name in ("text", "tokenizer", "recipe")},
    **{f"{name}?": [str] for name in ("prompts", "companions")},
    **{f"{name}?": (str, None) for name in ("cond_kind", "told", "code")},
}
# the types of what load is given, for a module and for a pipeline
GIVEN: dict[str, Structure] = {
    "source": (str, Path, nn.Module),
    "process": (Process, Mapping, str),
    "kind": (Kind, str),
    "shape": ([int], None),
    "classes": int,
    "steps": int,
    "call": Any,
    "empty": (torch.Tensor, dict, None),
    "examples": (torch.Tensor, dict, None),
    "base": (str, Path, Model, None),
    "network": Any,
}
OPENING: dict[str, Structure] = {
    "adapter?": (str, type, None),
    "dtype?": (str, torch.dtype, None),
    "config?": (str, Path, None),
    "prediction?": (str, None),
    "zero_snr?": (bool, None),
    "local?": bool,
    **{f"{name}?": (int, None) for name in ("height", "width", "frames", "length")},
}


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
    """What ``save_pretrained`` made of the student of a pipeline, or a LoRA in a single file, anybody's."""
    from stillhouse.io.export import is_student, lora_in, open_lora, open_student

    below, options = base.pipeline if isinstance(base, Model) else base, _as_shipped(base or folder, options)
    if not is_student(folder):
        folder = lora_in(folder)
        if below is None:
            raise StillhouseError(f"'{folder}' is a LoRA; give the pipeline it was trained on as its base.")
        family, about = open_lora(folder, below, **options)
        if not about:
            return from_pipeline(family)
        denoiser, companions = family.denoiser(), dict[str, Denoiser]()
        denoiser.kind = kind_from_config(about["kind"])  # a method may have tied its ends
    else:
        family, denoiser, companions, about = open_student(folder, below, **options)
    return Model(
        denoiser,
        family.shape,
        family.classes,
        samplings_from(about["samplings"], folder),
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
    the pipeline. What was decided in reading it, and what differs from its own call, is logged."""
    from stillhouse.io.pipelines.describe import differences

    for sentence in (*family.notes, *differences(family)):
        log.warning(sentence)
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


def samplings_from(configs: Mapping[str, Any], path: Path) -> dict[int, Sampling]:
    """The samplings that a file describes.

    Arguments:
        configs: by number of steps, as a text.
        path: of the file, for the error's sentence.

    Returns:
        Them by number; raises :class:`StillhouseError` for what is no sampling.
    """
    require(bool(configs), f"'{path}' names no sampling.")
    for steps in configs:
        whole = steps.isascii() and steps.isdigit() and len(steps) <= 9
        require(whole, f"'{path}' names a number of steps that is none, {steps!r:.40}.")
    try:
        return {int(steps): Sampling.from_config(config) for steps, config in configs.items()}
    except (StillhouseError, KeyError, TypeError, ValueError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise StillhouseError(f"'{path}' holds a sampling that can't be read: {reason}.") from error


def _is_lora(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    from stillhouse.io.export import is_lora

    with suppress(StillhouseError):  # a torn file, or none of weights, is refused where it is opened
        return is_lora(path)
    return False


def _language(folder: Path, length: int | None = None) -> Model:
    """The masked language model in a folder of Transformers, a student of ours or any."""
    denoiser, tokenizer, length, about = open_language(folder, length)
    steps = min(64, length)
    walks = {steps: Sampling.steps(denoiser.process, steps, solver="ancestral")}
    if about.get("samplings"):
        walks = samplings_from(about["samplings"], folder)
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
    call: Call | None = None,
    empty: Condition = None,
    examples: Condition = None,
    base: str | Path | Model | None = None,
    network: Any = None,
    **pipeline: Any,
) -> Model:
    """Open a model, or a plain network.

    Arguments:
        source: a folder that ``save_pretrained`` wrote, or its file; a shipped name (``"mnist"``); a
            Diffusers pipeline, as a folder or ``"hub:owner/name"``; the folder of a masked language model of
            Transformers; a module or a :class:`Denoiser`; ``"FILE.py:NAME"``, a function of yours that gives
            one, see :func:`model_of`.
        process: how data becomes noise, for a module alone: a process, its name or its configuration.
        kind: what the network predicts, for a module alone.
        shape: of one sample, for a module or a denoiser, which need it.
        classes: number of classes, 0 for none, for a module or a denoiser.
        steps: the default number of steps, for a module or a denoiser.
        call: ``call(net, x, t, cond, **extra)``, how a module is called; None for ``net(x, t, cond)``.
        empty: what a module takes where there is no condition, one row, such as ``torch.tensor([10])`` for
            the null class of ten; None: it takes None.
        examples: of the conditions of a module or a denoiser, one or more rows, where these are no labels: a
            tensor or a dict of tensors; None for none.
        base: the pipeline that a LoRA was trained on, a student's folder or anybody's safetensors file; None
            for any other source.
        network: the code of a network of yours that ``source`` holds the weights of: a module, a denoiser or
            a model, which is copied, a function that makes one, or ``"FILE.py:NAME"``; None for any other
            source.
        pipeline: the options of :func:`stillhouse.io.pipelines.open_pipeline`; of a masked language model
            ``length``, tokens of its texts [128, if it reads as many].

    Returns:
        The model; a :class:`stillhouse.model.Network` for a file that holds a network that is no denoiser.

    Raises:
        StillhouseError: for a missing, torn or foreign file, for a pickle, for options that a source does
            not take, and for a module that could not be saved.
    """
    checked(locals(), GIVEN, "load can't open this")
    for name, cond in (("empty", empty), ("examples", examples)):
        require_condition(cond, f"load can't open this: '{name}'")
    require(
        call is None or callable(call), "load can't open this: 'call' is a function, call(net, x, t, cond)."
    )
    possibly = not isinstance(source, str | Path) or possible(source)
    require(possibly, "No model can be named so: the name holds a zero byte, or is longer than any path.")
    for option in pipeline:
        if f"{option}?" not in OPENING:
            raise unknown("argument of load named", option, [name.rstrip("?") for name in (*GIVEN, *OPENING)])
    checked(pipeline, OPENING, "load can't open this")
    own = {
        "process": process != "flow",
        "kind": kind != "velocity",
        "call": call is not None,
        "empty": empty is not None,
    }
    about = {
        "shape": shape is not None,
        "classes": classes != 0,
        "steps": steps != 64,
        "examples": examples is not None,
    }
    if isinstance(source, nn.Module):
        _refuse(
            "Loading a module takes",
            {**dict.fromkeys(pipeline, True), "base": base is not None, "network": network is not None},
        )
        shape = required(shape, "Loading a module needs the shape of one sample, e.g. shape=(1, 32, 32).")
        sound = bool(shape) and all(1 <= side < 2**31 for side in shape)
        require(sound, f"The shape of one sample is of whole numbers from 1, not {shape}.")
        require(classes >= 0, f"The number of classes is 0 or more, not {classes}.")
        require(1 <= steps <= MOST_STEPS, f"The number of steps is 1 to {MOST_STEPS}, not {steps}.")
        if isinstance(source, Denoiser):
            _refuse("A denoiser has its own process and kind; loading one takes", own)
            denoiser = source
        else:
            made = process if isinstance(process, Process) else process_from_config(process)
            denoiser = Denoiser(unwrapped(source), made, kind, call=call or call_plain, empty=empty)
        if type(denoiser) is Denoiser and is_own(denoiser.net):
            require_whole(denoiser.net)
            shown = balanced_labels(rows_of(shape), classes) if examples is None else examples
            warn_of_times(denoiser, tuple(shape), shown)
        default = Sampling.steps(
            denoiser.process, steps, solver="ancestral" if denoiser.process.discrete else "heun"
        )
        return Model(denoiser, tuple(shape), classes, {steps: default}, free_steps=True, examples=examples)
    _refuse(f"What '{source}' holds is in its own files; opening it takes", own | about)
    if names_code(source) and not Path(source).is_dir():
        _refuse(
            "What your code makes is opened with", {**dict.fromkeys(pipeline, True), "base": base is not None}
        )
        return model_of(str(source))
    source = _found(source)
    path = Path(source)
    if is_language(path):
        require(
            base is None and set(pipeline) <= {"length"},
            "A masked language model takes no option but the length of its texts.",
        )
        return _language(path, **pipeline)
    if base is not None or (path / ABOUT).is_file() or _is_lora(path):
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
    if own_network(path) is not None and network is not None:
        return _saved_own(path, network)
    require(network is None, f"'{path}' holds no network of your own; open it without its code.")
    module, info = load_module(path)
    if not isinstance(module, Denoiser):
        require({"inputs", "outputs"} <= set(info), f"'{path}' is a part of a model; open its folder.")
        # nearly always it is a model; every caller would have to check otherwise
        return cast(Model, Network(module, info.pop("inputs"), info.pop("outputs"), info))
    return _saved_model(path, module, info)


def model_of(made: Any, code: str = "") -> Model:
    """The model that a user's code gives.

    Arguments:
        made: ``"FILE.py:NAME"``, which is run; a function without arguments, which is called; a
            :class:`Model`; a module with the arguments of :func:`load`, as ``(module, {"shape": (2,), …})``;
            a module alone.
        code: how it was named; empty for an object.

    Returns:
        The model.

    Raises:
        StillhouseError: for what fails in the user's code, and for a result of another kind.
    """
    if isinstance(made, str | Path):
        return model_of(run_code(str(made)), str(made))
    if isinstance(made, Model):
        return replace(made, code=code or made.code)
    if isinstance(made, nn.Module):
        return replace(load(made), code=code)
    if callable(made):
        return model_of(made(), code)
    pair: Any = made if isinstance(made, tuple | list) and len(made) == 2 else (None, None)
    module, options = pair
    good = isinstance(module, nn.Module) and isinstance(options, Mapping)
    who = f"'{code}'" if code else "The code"
    require(
        good,
        f"{who} gives a {type(made).__name__}, and is to give a Model, as of stillhouse.load(module, "
        "shape=…), or a "
        'module with the arguments of load, (module, {"shape": …}).',
    )
    known = [name for name in inspect.signature(load).parameters if name not in ("source", "pipeline")]
    for option in options:
        if option not in known:
            raise unknown("argument of load named", str(option), known)
    return replace(load(module, **options), code=code)


def _saved_own(path: Path, network: Any) -> Model:
    """The model of a file that holds the weights of a user's network, whose code ``network`` is.

    What no file holds, an encoder of texts or a codec of the user's own, is taken from the code's model.
    """
    code = str(network) if isinstance(network, str | Path) else ""
    first: list[Model] = []
    used = 0

    def fresh() -> Denoiser:
        nonlocal used
        made = run_code(code) if code else network
        if callable(made) and not isinstance(made, nn.Module):
            made = made()
        if isinstance(made, nn.Module):  # a bare module is called plainly; the rest is in the file
            plain = Denoiser(unwrapped(made), process_from_config("flow"))
            denoiser = made if isinstance(made, Denoiser) else plain
        else:
            first.append(model_of(made, code))
            denoiser = first[-1].denoiser
        bare = type(denoiser) is Denoiser
        require(bare, f"A {type(denoiser).__name__} has no network to fill; give the one inside it.")
        used += 1
        # what the caller holds stays as it is; a function may give the same object again
        return denoiser if made is not network and used == 1 else denoiser.copy()

    module, info = load_module(path, fresh)
    assert isinstance(module, Denoiser)
    model = _saved_model(path, module, info, fresh)
    beside = (
        {name: getattr(first[0], name) for name in ("text", "codec", "tokenizer", "prompts")} if first else {}
    )
    return replace(
        model, **{n: v for n, v in beside.items() if v and not getattr(model, n)}, code=code or model.code
    )


def _saved_model(
    path: Path,
    denoiser: Denoiser,
    info: dict[str, Any],
    network: Callable[[], Denoiser] | None = None,
) -> Model:
    """The model of a file of ours that holds ``denoiser``, and ``info`` in its header; ``network`` makes the
    user's network of its companions."""
    if "samplings" not in info:
        raise StillhouseError(
            f"'{path}' lacks 'samplings' in its header; it was not written by save_pretrained."
        )
    checked(info, HEADER, f"The header of '{path}' can't be read")
    try:
        samplings = samplings_from(info.pop("samplings"), path)
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
        companions = {name: load_module(companion_file(path, name), network)[0] for name in names}
        try:
            tokenizer, encoder = tokenizer_from(info.pop("tokenizer", None)), _text(text)
        except StillhouseError as error:
            raise StillhouseError(f"The header of '{path}' can't be read: {error}") from error
        examples, code = info.pop("examples", None), info.pop("code", "")
        return Model(
            denoiser,
            *known,
            info,
            encoder,
            prompts,
            companions=companions,
            cond_kind=cond_kind,
            tokenizer=tokenizer,
            examples=examples,
            code=code,
        )
    except KeyError as error:
        raise StillhouseError(
            f"'{path}' lacks {error} in its header; it was not written by save_pretrained."
        ) from error
