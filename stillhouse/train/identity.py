"""What makes a run the run that it is: what must be the same where it goes on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import flattened
from stillhouse.io.own import kept
from stillhouse.train.data import Data, InfiniteData, Prompts, Several, TensorData
from stillhouse.train.recipe import Recipe

# entries of a recipe that say what is kept and shown, or how fast it is computed
FREE = {
    *("save_every", "keep_checkpoints", "log_every", "grid_every", "validation_every", "tensorboard"),
    *("compile", "checkpoint_activations"),
}
PROBES = 64
VALUES = 2**16  # of a larger tensor so many count, from all over it
NEAR = 1e-3  # by how much a value may differ, of what a network or another machine computes again


def recipe_identity(recipe: Recipe) -> dict[str, Any]:
    """The entries of a recipe that what is learned depends on."""
    every = dataclasses.asdict(recipe)
    return {name: value for name, value in every.items() if name not in FREE}


def network_identity(net: nn.Module) -> str:
    """A number in hexadecimal digits of the names and shapes of a network's weights."""
    found = hashlib.blake2b(digest_size=8)
    for name, weight in net.named_parameters():
        found.update(f"{name} {tuple(weight.shape)}\n".encode())
    return found.hexdigest()


def weights_identity(net: nn.Module, own: bool = False) -> str:
    """A number in hexadecimal digits that two networks share if their tensors are equal, and practically only
    then; adapters on them are passed over.

    Arguments:
        net: any.
        own: whether it is a user's; the tensors that its ``state_dict`` lacks count as well then, where those
            of a known library are caches.

    Returns:
        32 digits.
    """
    weights, _, loose = kept(net)
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in [*weights.items(), *(loose.items() if own else ())]:
        if ".lora_" in name:  # of an adapter that an earlier run put on it
            continue
        found.update(f"{name.replace('.base_layer', '')} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, -(-len(flat) // VALUES))].cpu().contiguous()
        found.update(some.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def probes_of(tensors: Mapping[str, Tensor]) -> list[float]:
    """A few values from all over some tensors."""
    found = []
    for _, tensor in sorted(tensors.items()):
        flat = tensor.detach().reshape(-1)
        where = torch.arange(min(PROBES, len(flat))) * max(1, len(flat) // PROBES)
        found += [round(float(value), 6) for value in flat[where.to(flat.device)].double()]
    return found


def data_identity(data: Data) -> dict[str, Any]:
    """What tells one data set from another.

    Arguments:
        data: any; of one that is none of this library's the shape alone counts.

    Returns:
        Plain data: the shape, and numbers of rows and values of what is in memory, or the world's options.
    """
    made: dict[str, Any] = {"shape": list(data.shape), "classes": data.classes}
    if isinstance(data, TensorData):
        return {**made, "rows": len(data.x), "probes": probes_of({"x": data.x, **flattened(data.cond)})}
    if isinstance(data, Prompts):
        return {**made, "probes": probes_of(flattened(data.bank))}
    if isinstance(data, InfiniteData):
        return {**made, "world": getattr(data.world, "config", data.world.name)}
    if isinstance(data, Several):
        parts = {name: data_identity(part) for name, part in data.parts.items()}
        return {**data_identity(data.main), **({"parts": parts} if parts else {})}
    return made


def same(mine: Any, noted: Any) -> bool:
    """Whether two identities agree, numbers but for what computing them again may change.

    Arguments:
        mine: of the run as it goes on, plain data.
        noted: of the run as it was.

    Returns:
        True if they do.
    """
    if isinstance(mine, dict) and isinstance(noted, dict):
        return mine.keys() == noted.keys() and all(same(mine[name], noted[name]) for name in mine)
    if isinstance(mine, list) and isinstance(noted, list):
        return len(mine) == len(noted) and all(map(same, mine, noted))
    if isinstance(mine, float) and isinstance(noted, float | int):
        return abs(mine - noted) <= NEAR * (1 + abs(noted))
    return bool(mine == noted)
