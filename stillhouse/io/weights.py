"""Weights on disk: one safetensors file per denoiser that holds its description, written whole or not at
all."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from stillhouse.core.bridge import unconditional
from stillhouse.core.conditions import Condition, flattened, restored
from stillhouse.core.denoiser import Call, Denoiser, ExactDenoiser, Wrapped, call_plain
from stillhouse.core.errors import StillhouseError, require, required, required_type, unknown
from stillhouse.core.prediction import KINDS, Kind
from stillhouse.core.schedules import process_from_config
from stillhouse.core.spellings import current_weights
from stillhouse.core.structure import checked, fields_structure
from stillhouse.io.checked import json_text, metadata_of, opened
from stillhouse.io.leftovers import part_of
from stillhouse.io.own import fill, is_own, kept, require_whole
from stillhouse.models import DEPTHS, build_model

log = logging.getLogger("stillhouse")
HEADER = "stillhouse"
BESIDE = "stillhouse:"  # before the names of tensors in a file that are no weights
CALLS: dict[str, Call] = {
    "plain": call_plain,
    "unconditional": unconditional,
}  # the ways in which our own networks are called
# what a file's header says: of a network of the user's own, of a denoiser, and of any other network
OWN = {"class": str, "code?": str, "call": str, "shared?": {"*": str}}
ABOUT = {
    "process": dict,
    "kind": dict,
    "two_time": bool,
    "info": dict,
    "own?": OWN,
    "model?": dict,
    "call?": str,
}
ABOUT_MODULE = {"module?": dict, "info?": (dict, None)}
PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def atomic_write(path: str | Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file so that at every moment ``path`` holds the old content or the new one, never a part.

    The content goes to a new name in the same folder (made if missing), reaches the disk, and then takes the
    place of ``path``. If that fails (disk full, no permission), nothing is left behind and
    :class:`StillhouseError` says why; what a killed process leaves is deleted by the next that writes
    ``path``.

    Arguments:
        path: of the file.
        content: the bytes, or a function that writes the file it is given the path of.
    """
    path = Path(path)
    try:
        with part_of(path) as part:
            mode = part.stat().st_mode  # as the user's umask has it; some writers make private files
            if callable(content):
                content(part)
            else:
                part.write_bytes(content)
            part.chmod(mode)
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StillhouseError(f"Can't write '{path}': {reason}.") from error


def kind_config(kind: Kind) -> dict[str, Any]:
    """Name and fields of a prediction kind, as plain data."""
    name = next((name for name, known in KINDS.items() if type(kind) is known), None)
    require(
        name is not None, f"A prediction kind of type {type(kind).__name__} has no name to be saved under."
    )
    return {"name": name, **(dataclasses.asdict(kind) if dataclasses.is_dataclass(kind) else {})}


def kind_from_config(config: dict[str, Any]) -> Kind:
    """The prediction kind that :func:`kind_config` described."""
    fields = dict(config)
    name = str(fields.pop("name", ""))
    if name not in KINDS:
        raise unknown("prediction kind", name, KINDS)
    checked(fields, fields_structure(KINDS[name]), f"Prediction kind '{name}' can't be made")
    try:
        return KINDS[name](**fields)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise StillhouseError(f"Prediction kind '{name}' can't be made from {fields}: {error}.") from error


def describe_denoiser(denoiser: Denoiser, info: dict[str, Any] | None = None) -> dict[str, Any]:
    """All of a denoiser but its weights, as plain data; what can't be saved is refused here, at no cost.

    Arguments:
        denoiser: of one of our own networks, or of one of the user's.
        info: anything that JSON can hold; ``code``, where it is there, names the user's code. None: nothing.

    Returns:
        The header of its file.

    Raises:
        StillhouseError: for a wrapper, a process or kind without a name, a network that no file can hold.
    """
    plain = type(denoiser) is Denoiser or not isinstance(denoiser, Wrapped | ExactDenoiser)
    require(
        plain and not isinstance(denoiser.net, Denoiser),
        f"A {type(denoiser).__name__} can't be saved, only a denoiser of one of our own networks or of "
        "yours; "
        "save the one inside it.",
    )
    call = next((name for name, known in CALLS.items() if denoiser.call is known), None)
    about: dict[str, Any] = {}
    if is_own(denoiser.net):
        require_whole(denoiser.net)
        own = {"class": type(denoiser.net).__name__, "code": (info or {}).get("code", "")}
        about["own"] = {**own, "call": call or "own"}
    else:
        require(
            call is not None,
            f"A network of ours, {type(denoiser.net).__name__}, that is called in a way of your own can't be "
            "saved; put it into a module of yours that is called as net(x, t, cond).",
        )
        about["model"] = denoiser.net.config
    about |= {
        "process": denoiser.process.config(),
        "kind": kind_config(denoiser.kind),
        "two_time": denoiser.two_time,
        **({} if call in ("plain", None) or "own" in about else {"call": call}),
        "info": info or {},
    }
    process_from_config(about["process"])  # a process of the user's own has no name to be found by
    try:
        json.dumps(about)
    except (TypeError, ValueError) as error:
        raise StillhouseError(f"The description to be saved is not plain data: {error}.") from error
    return about


def save_denoiser(
    path: str | Path,
    denoiser: Denoiser,
    info: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    examples: Condition = None,
) -> None:
    """Write the weights of a denoiser and all that is needed to build it again into one safetensors file.

    Of a network of the user's own the file holds the weights under their own names; opening it takes its
    code, see :func:`load_denoiser`.

    Arguments:
        path: of the file.
        denoiser: of one of our own networks, or of one of the user's.
        info: anything that JSON can hold (how it was made, how well it does); None: nothing.
        dtype: of the stored floating-point weights (``torch.float16`` halves the file); None: as they are.
        examples: a condition that is kept as well, and comes back as ``info["examples"]``; None for none.

    Raises:
        StillhouseError: for what :func:`describe_denoiser` refuses, or if the file can't be written.
    """
    about = describe_denoiser(denoiser, info)
    weights: dict[str, Tensor] = denoiser.net.state_dict()
    beside = {**flattened(denoiser.empty, "empty"), **flattened(examples, "examples")}
    if "own" in about:
        weights, shared, loose = kept(denoiser.net)
        about["own"] |= {"shared": shared} if shared else {}
        beside |= {f"loose.{name}": tensor for name, tensor in loose.items()}

    def stored(weight: Tensor) -> Tensor:
        return weight.detach().to("cpu", dtype if weight.is_floating_point() else None).contiguous()

    weights = {name: stored(weight) for name, weight in weights.items()}
    # parts of one tensor are written apart; safetensors holds no memory twice
    weights |= {f"{BESIDE}{name}": stored(tensor).clone() for name, tensor in beside.items()}
    weights = {name: w.clone() if _borrowed(w) else w for name, w in weights.items()}
    atomic_write(path, lambda part: save_file(weights, part, {HEADER: json.dumps(about)}))


def _borrowed(tensor: Tensor) -> bool:
    """Whether a tensor is a part of a larger one."""
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of one of our files, and its weights by the names that they have now."""
    require(path.is_file(), f"There is no weights file '{path}'.")
    with open(path, "rb") as file:
        start = file.read(9)
    # a safetensors file starts with the length of its header, which may look like a pickle's first bytes;
    # then comes a brace
    pickled = start.startswith(PICKLE_STARTS) and start[8:] != b"{"
    require(
        path.suffix.lower() not in PICKLE_SUFFIXES and not pickled,
        f"'{path}' is a pickle, which can run code when opened; convert it where you trust it: "
        "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors').",
    )
    with opened(path) as found:
        header = (found.metadata() or {}).get(HEADER)
        weights = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (not a dict)
    require(
        header is not None,
        f"'{path}' has weights but not our header, so that their network is unknown; a checkpoint of a "
        "Diffusers "
        "pipeline is opened with a folder of its kind as config (--config).",
    )
    about = json_text(str(header), ABOUT_MODULE, f"The header of '{path}'")
    return about, weights if "own" in about else current_weights(weights)


def load_denoiser(
    path: str | Path, network: Callable[[], Denoiser] | None = None
) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser, on the CPU and in evaluation mode, and the ``info`` that :func:`save_denoiser` wrote; a
    network of ours in float32, one of the user's in the precision that its code makes it in.

    Arguments:
        path: of the file.
        network: makes a denoiser of the user's network, which is filled with the file's weights; its way of
            being called is kept, process and kind are the file's. None for a network of ours.

    Returns:
        The denoiser and its information.

    Raises:
        StillhouseError: if there is no such file, if it is torn, a pickle, without our header, its weights
            don't fit the network, or the network is the user's and ``network`` is missing.
    """
    path = Path(path)
    about, weights = _read(path)
    checked(about, ABOUT, f"The header of '{path}' can't be read")
    beside = {n.removeprefix(BESIDE): weights.pop(n) for n in list(weights) if n.startswith(BESIDE)}
    try:
        process, kind = process_from_config(about["process"]), kind_from_config(about["kind"])
    except (StillhouseError, ValueError, KeyError, TypeError) as error:
        raise StillhouseError(f"The header of '{path}' can't be read: {str(error).rstrip('.')}.") from error
    try:
        two_time, info = bool(about["two_time"]), dict(about["info"])
        own = about.get("own")
        made: Denoiser | None = None
        net: nn.Module
        if own is None:
            call = CALLS[about.get("call", "plain")]
            net = _described(path, about.get("model"), weights)
        else:
            make = required(network, missing_code(path, own))
            made = make()
            call, net = made.call, made.net
            weights |= {name: weights[first] for name, first in own.get("shared", {}).items()}
    except StillhouseError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(f"The header of '{path}' can't be read: {error}.") from error
    _fit(path, net.state_dict(), weights)
    warn_unless_finite(weights, path)
    if own is None:
        net.load_state_dict(weights)
    else:
        plain = own["call"] == "own" and call is call_plain
        require(
            not plain,
            f"'{path}' was called through a function of yours; give the Denoiser or Model with its call, "
            "not the "
            "bare module.",
        )
        loose = {n.removeprefix("loose."): w for n, w in beside.items() if n.startswith("loose.")}
        fill(net, weights, loose)
    conditions = restored(restored(beside, "empty"), "examples")
    if "examples" in conditions:
        info["examples"] = conditions["examples"]
    empty = conditions.get("empty", None if made is None else made.empty)
    return Denoiser(net, process, kind, call=call, two_time=two_time, empty=empty).eval(), info


def missing_code(path: Path, own: dict[str, Any]) -> str:
    """The sentence for weights of a user's network whose code was not named.

    Arguments:
        path: of the file.
        own: its header's description of the network.

    Returns:
        The sentence, with the code that the header names.
    """
    code = str(own.get("code") or "FILE.py:NAME")
    return (
        f"'{path}' holds weights of {own.get('class')}, a network of your own; name its code: --network "
        f"{code}, "
        "in Python load(folder, network=…)."
    )


def own_network(path: str | Path) -> dict[str, Any] | None:
    """What the header of one of our files says of a network of the user's own; None for one of ours, and for
    anything that is no such file."""
    try:
        header = metadata_of(path).get(HEADER, "null")
        own: dict[str, Any] = json_text(header, {"own": OWN}, f"The header of '{path}'")["own"]
    except StillhouseError:
        return None
    return own


def save_module(path: str | Path, module: nn.Module, info: dict[str, Any] | None = None) -> None:
    """Write a denoiser, or any network of ours that has a ``config``, so that :func:`load_module` reads it
    back.

    Arguments:
        path: of the file.
        module: raises :class:`StillhouseError` for one without a ``config``.
        info: anything that JSON can hold; None: nothing.
    """
    if isinstance(module, Denoiser):
        save_denoiser(path, module, info)
        return
    config = getattr(module, "config", None)
    require(
        isinstance(config, dict) and "name" in config,
        f"Only a denoiser or a network of ours can be saved beside a model, not a {type(module).__name__}.",
    )
    weights = {name: weight.detach().cpu().contiguous() for name, weight in module.state_dict().items()}
    header = json.dumps({"module": config, "info": info or {}})
    atomic_write(path, lambda part: save_file(weights, part, {HEADER: header}))


def load_module(
    path: str | Path, network: Callable[[], Denoiser] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """What :func:`save_module` wrote.

    Arguments:
        path: of the file.
        network: as of :func:`load_denoiser`, which this is for a denoiser.

    Returns:
        The module, on the CPU and in evaluation mode, and its information.

    Raises:
        StillhouseError: as :func:`load_denoiser` does.
    """
    about, weights = _read(Path(path))
    if "module" not in about:
        return load_denoiser(path, network)
    try:
        module = _described(Path(path), about["module"], weights)
    except StillhouseError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(f"The header of '{path}' can't be read: {error}.") from error
    warn_unless_finite(weights, path)
    module.load_state_dict(weights)
    return module.eval(), dict(about.get("info") or {})


def companion_file(path: Path, name: object) -> Path:
    """Where a companion of a model lies: beside it, whatever a header says.

    Arguments:
        path: of the model.
        name: of the companion, as a header gives it.

    Returns:
        The companion's file; raises :class:`StillhouseError` for a name of other signs than letters, digits,
        ``_`` and ``-``.
    """
    word = str(name)
    plain = word.replace("_", "").replace("-", "")
    require(plain.isascii() and plain.isalnum(), f"'{word[:80]}' is no name of a companion.")
    return path.with_name(f"{word}.safetensors")


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a value that is NaN or infinite; None where all are finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def warn_unless_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Log that weights are not all finite.

    Arguments:
        tensors: that were just read, by name.
        source: where they were read.
    """
    if name := first_not_finite(tensors):
        log.warning("'%s' holds weights that are not finite, first '%s'; nor will samples be.", source, name)


def _described(path: Path, config: Any, weights: dict[str, Tensor]) -> nn.Module:
    """The network that a header describes. A header may lie: nothing of its size is made before the file is
    seen to hold the weights of it."""
    config = required_type(config, dict, f"The header of '{path}' describes no network.")
    _bounded(path, "model", config, max(64, len(weights)))
    try:
        with torch.device("meta"):
            plan = build_model(config)
    except StillhouseError as error:
        raise StillhouseError(f"'{path}' can't be opened: {error}") from error
    _fit(path, plan.state_dict(), weights)
    return build_model(config)


def _bounded(path: Path, name: str, value: Any, most: int) -> None:
    """Refuse more layers than there are tensors: each has one at least."""
    if isinstance(value, dict):
        for below, one in value.items():
            _bounded(path, below, one, most)
    elif isinstance(value, list | tuple):
        short = len(value) <= most
        require(short, f"The header of '{path}' lists {len(value):,} {name} for {most} tensors.")
        for one in value:
            _bounded(path, name, one, most)
    elif name in DEPTHS and isinstance(value, int):
        require(value <= most, f"The header of '{path}' names a {name} of {value:,} for {most} tensors.")


def _fit(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse weights that are not those of the network, naming the first that differs."""
    for name in [*wanted, *found]:
        here = tuple(found[name].shape) if name in found else "missing"
        there = tuple(wanted[name].shape) if name in wanted else "unknown"
        require(
            here == there,
            f"The weights in '{path}' don't fit the network: '{name}' is {here} there, {there} in the "
            "network.",
        )
