"""Weights on disk: one safetensors file per denoiser that holds its description, written whole or not at
all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stillhouse.core.bridge import unconditional
from stillhouse.core.denoiser import Call, Denoiser, call_plain
from stillhouse.core.errors import StillhouseError, require, required_type, unknown
from stillhouse.core.prediction import KINDS, Kind
from stillhouse.core.schedules import process_from_config
from stillhouse.core.spellings import current_weights
from stillhouse.models import build_model

HEADER = "stillhouse"
CALLS: dict[str, Call] = {
    "plain": call_plain,
    "unconditional": unconditional,
}  # the ways in which our own networks are called
PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def atomic_write(path: str | Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file so that at every moment ``path`` holds the old content or the new one, never a part.

    The content goes to a new name in the same folder (made if missing), reaches the disk, and then takes the
    place of ``path``. If that fails (disk full, no permission), nothing is left behind and
    :class:`StillhouseError` says why.

    Arguments:
        path: of the file.
        content: the bytes, or a function that writes the file it is given the path of.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
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
    finally:
        with contextlib.suppress(OSError):  # most often: it took its place, or was never made
            part.unlink()


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
    try:
        return KINDS[name](**fields)
    except TypeError as error:
        raise StillhouseError(f"Prediction kind '{name}' can't be made from {fields}: {error}.") from error


def save_denoiser(
    path: str | Path,
    denoiser: Denoiser,
    info: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the weights of a denoiser and all that is needed to build it again into one safetensors file.

    Arguments:
        path: of the file.
        denoiser: of one of our own networks.
        info: anything that JSON can hold (how it was made, how well it does); None: nothing.
        dtype: of the stored floating-point weights (``torch.float16`` halves the file); None: as they are.

    Raises:
        StillhouseError: the network has no ``config`` (the denoiser of a foreign model, a wrapper), or the
            file can't be written.
    """
    model = getattr(denoiser.net, "config", None)
    call = next((name for name, known in CALLS.items() if denoiser.call is known), None)
    require(
        isinstance(model, dict) and call is not None,
        "Only a denoiser of one of our own networks can be saved like this, not one of "
        f"{type(denoiser.net).__name__}.",
    )
    about = {
        "model": model,
        "process": denoiser.process.config(),
        "kind": kind_config(denoiser.kind),
        "two_time": denoiser.two_time,
        **({} if call == "plain" else {"call": call}),
        "info": info or {},
    }
    try:
        header = json.dumps(about)
    except (TypeError, ValueError) as error:
        raise StillhouseError(f"The description to save with '{path}' is not plain data: {error}.") from error

    def stored(weight: Tensor) -> Tensor:
        return weight.detach().to("cpu", dtype if weight.is_floating_point() else None).contiguous()

    weights = {name: stored(weight) for name, weight in denoiser.net.state_dict().items()}
    atomic_write(path, lambda part: save_file(weights, part, {HEADER: header}))


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
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            weights = current_weights(weights)
    except (SafetensorError, OSError) as error:
        raise StillhouseError(
            f"'{path}' is no whole safetensors file (cut short while copied?): {error}."
        ) from error
    require(
        header is not None,
        f"'{path}' has weights but not our header, so that their network is unknown; a checkpoint of a "
        "Diffusers "
        "pipeline is opened with a folder of its kind as config (--config).",
    )
    try:
        about = json.loads(str(header))
    except ValueError as error:
        raise StillhouseError(f"The header of '{path}' can't be read: {error}.") from error
    about = required_type(about, dict, f"The header of '{path}' can't be read: it describes no network.")
    return about, weights


def load_denoiser(path: str | Path) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser, in float32 on the CPU and in evaluation mode, and the ``info`` that :func:`save_denoiser`
    wrote to ``path``.

    Raises :class:`StillhouseError` if there is no such file, if it is torn, a pickle, without our header, or
    its weights don't fit the network that the header describes.
    """
    path = Path(path)
    about, weights = _read(path)
    try:
        model, process, kind = (
            build_model(about["model"]),
            process_from_config(about["process"]),
            kind_from_config(about["kind"]),
        )
        two_time, info, call = bool(about["two_time"]), about["info"], CALLS[about.get("call", "plain")]
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(f"The header of '{path}' can't be read: {error}.") from error
    _fit(path, model.state_dict(), weights)
    model.load_state_dict(weights)
    return Denoiser(model, process, kind, call=call, two_time=two_time).eval(), info


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


def load_module(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """What :func:`save_module` wrote, on the CPU and in evaluation mode; raises as :func:`load_denoiser`
    does."""
    about, weights = _read(Path(path))
    if "module" not in about:
        return load_denoiser(path)
    try:
        module = build_model(about["module"])
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(f"The header of '{path}' can't be read: {error}.") from error
    _fit(Path(path), module.state_dict(), weights)
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
