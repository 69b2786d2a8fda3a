"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

``checkpoints/step-00000100/{weights,optimisers}.safetensors, state.json``: written under a temporary name,
fsynced, renamed. ``state.json`` is written last and holds each file's size and digest, and one of its own, so
a torn checkpoint is recognised and passed over.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.structure import checked
from stillhouse.io.checked import bytes_of, json_of, json_text, tensors_of
from stillhouse.io.inside import plain
from stillhouse.io.own import is_own, loose_tensors, restore_loose
from stillhouse.io.weights import BESIDE, atomic_write
from stillhouse.train.player import Player

log = logging.getLogger("stillhouse")
STATE = {"step": int, "files": {"*": [(int, str)]}}  # of a file: its size and digest


def weights_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Every tensor of the modules under ``module/name``, copied, so that shared and strided tensors save
    too; of a user's network also those that its state lacks, under ``module/stillhouse:name``."""
    return {name: v.detach().cpu().contiguous().clone() for name, v in named_tensors(modules).items()}


def named_tensors(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The tensors themselves, by the names of :func:`weights_of`."""
    return {
        f"{m}/{k}": v
        for m, module in modules.items()
        for k, v in [*module.state_dict().items(), *_beside(module).items()]
    }


def _beside(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of users' networks inside a module that its state lacks."""
    return {
        f"{BESIDE}{place}.{name}": tensor
        for place, net in _own(module)
        for name, _, _, tensor in loose_tensors(net)
    }


def _by_a_library(net: nn.Module) -> bool:
    """Whether a network is Diffusers' or Transformers', whose unsaved tensors follow from its configuration,
    or a denoiser."""
    return hasattr(net, "save_pretrained") or isinstance(net, Denoiser)


def _own(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The users' networks inside a module, by name."""
    found = [
        (name, inner.net)
        for name, inner in module.named_modules()
        if type(inner) is Denoiser and is_own(inner.net) and not _by_a_library(inner.net)
    ]
    return [(f"{name}.net" if name else "net", net) for name, net in found]


def restore_weights(modules: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`weights_of`, in place; raises :class:`StillhouseError` where a shape or a name
    differs.

    Arguments:
        modules: by name, as :func:`weights_of` was given them.
        tensors: under ``module/name``.
    """
    for m, module in modules.items():
        own = {k.removeprefix(f"{m}/"): v for k, v in tensors.items() if k.startswith(f"{m}/")}
        beside = {k.removeprefix(BESIDE): own.pop(k) for k in list(own) if k.startswith(BESIDE)}
        for place, net in _own(module):
            restore_loose(net, {k.removeprefix(f"{place}."): v for k, v in beside.items()})
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise StillhouseError(
                f"The checkpoint's '{m}' does not fit this run's: {str(error).splitlines()[-1].strip()}"
            ) from error


def optimisers_of(players: dict[str, Player]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser states split into tensors and plain numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, player in players.items():
        for index, state in player.optimiser.state_dict()["state"].items():
            for key, value in state.items():
                place = f"{name}/{index}/{key}"
                if torch.is_tensor(value):
                    tensors[place] = value.detach().cpu().clone()
                else:
                    numbers[place] = value
    return tensors, numbers


def restore_optimisers(
    players: dict[str, Player], tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """The inverse of :func:`optimisers_of`, in place.

    Arguments:
        players: by name, with fresh optimisers.
        tensors: states under ``player/index/key``.
        numbers: the plain numbers of the states, under the same names.
    """
    for name, player in players.items():
        state: dict[int, dict[str, Any]] = {}
        for place, value in [*tensors.items(), *numbers.items()]:
            owner, index, key = place.split("/")
            if owner == name:
                state.setdefault(int(index), {})[key] = value
        player.optimiser.load_state_dict(
            {"state": state, "param_groups": player.optimiser.state_dict()["param_groups"]}
        )


def write(
    folder: Path, step: int, files: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint and delete all but the newest; raises :class:`StillhouseError` where that fails,
    with nothing of it left behind.

    Arguments:
        folder: of the run's checkpoints.
        step: iterations that are done.
        files: tensors by name, by the name of their safetensors file.
        state: further plain data, kept as JSON.
        keep: checkpoints that stay, at least 1.

    Returns:
        The checkpoint's folder, ``folder/step-…``.
    """
    final, temporary = folder / f"step-{step:08d}", folder / f".step-{step:08d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        sums = {}
        for name, tensors in files.items():
            blob = save(tensors)
            atomic_write(temporary / f"{name}.safetensors", blob)
            sums[name] = [len(blob), _digest(blob)]
        text = json.dumps({**state, "step": step, "files": sums})
        whole = {"state": text, "digest": _digest(text.encode())}
        atomic_write(temporary / "state.json", json.dumps(whole).encode())
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StillhouseError(
            f"The checkpoint of step {step} could not be written to '{folder}': {error.strerror or error}."
        ) from error
    except StillhouseError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """State and tensors of one checkpoint; raises :class:`StillhouseError` if it is torn."""
    torn = f"The checkpoint '{path}' is torn"
    try:
        state = _state(path, torn)
        for name, (size, digest) in state["files"].items():
            blob = bytes_of(path / f"{name}.safetensors")
            whole = len(blob) == size and _digest(blob) == digest
            require(whole, f"{torn}: {name}.safetensors is not what was written.")
        return state, {name: tensors_of(path / f"{name}.safetensors") for name in state["files"]}
    except StillhouseError as error:
        raise error if str(error).startswith(torn) else StillhouseError(f"{torn}: {error}") from error


def _state(path: Path, torn: str) -> dict[str, Any]:
    """What ``state.json`` holds; one of before has no digest."""
    file = path / "state.json"
    found: dict[str, Any] = json_of(file)
    if "files" not in found:
        checked(found, {"state": str, "digest": str}, f"'{file}' can't be read")
        whole = len(found) == 2 and _digest(found["state"].encode()) == found["digest"]
        require(whole, f"{torn}: state.json is not what was written.")
        found = json_text(found["state"], dict, f"'{file}'")
    checked(found, STATE, f"'{file}' can't be read")
    step = found["step"]
    require(path.name == f"step-{step:08d}", f"{torn}: it is of step {step}.")
    sound = all(plain(name) and len(about) == 2 for name, about in found["files"].items())
    require(sound, f"{torn}: its state names other files.")
    return found


def _digest(blob: bytes) -> str:
    return hashlib.blake2b(blob, digest_size=16).hexdigest()


def oldest(folder: Path) -> int:
    """The step of the oldest checkpoint below ``folder``, which has one."""
    return min(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def newest(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """The newest whole checkpoint below ``folder``; torn ones are passed over with a message. None if there
    is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return read(path)
        except StillhouseError as error:
            log.warning("%s Passed over.", error)
    return None
