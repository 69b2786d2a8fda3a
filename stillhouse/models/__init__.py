"""Small reference networks, and the registry that builds one from plain data."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.structure import BY_ANNOTATION, checked
from stillhouse.models.dit import DiT
from stillhouse.models.mlp import MLP
from stillhouse.models.onehot import OneHot
from stillhouse.models.routed import Routed
from stillhouse.models.scenes import Gaussians, Plain, Points, Voxels
from stillhouse.models.taps import Network
from stillhouse.models.temporal import TemporalUNet
from stillhouse.models.tokens import TokenTransformer
from stillhouse.models.unet import UNet
from stillhouse.models.video import VideoDiT

MODELS: dict[str, type[Network]] = {
    model.name: model for model in (MLP, OneHot, UNet, DiT, TemporalUNet, VideoDiT, TokenTransformer)
}
MODELS |= {scene.name: scene for scene in (Gaussians, Voxels, Points, Plain)}

DEPTHS = ("depth", "blocks")  # options that count layers
MOST_LAYERS = 10_000


def build_model(config: dict[str, Any], seed: int = 0) -> Network:
    """The network that ``{"name": "unet", "channels": [32, 64], …}`` describes; ``net.config`` gives the
    description back.

    Its first weights depend on ``seed`` alone; global random state is left as it was. Raises
    :class:`StillhouseError` for an unknown name or option, or a value that no network can be built with.
    """
    options = dict(config)
    name = str(options.pop("name", ""))
    if name == Routed.name and set(options) == {"by", "experts"}:
        return Routed([build_model(expert, seed) for expert in options["experts"]], options["by"])
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    known = inspect.signature(MODELS[name]).parameters
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of the model '{name}' named", str(option), known)
        _check(name, known[option], value)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return MODELS[name](**options)
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise StillhouseError(f"The model '{name}' can't be built with {options}: {reason}.") from error


def _check(name: str, known: inspect.Parameter, value: Any) -> None:
    """Refuse a value of another type, one that is too small, and more layers than any network has; what is 0
    by default may be."""
    source, option = f"The model '{name}' can't be built", known.name
    structure = BY_ANNOTATION.get(str(known.annotation), Any)
    checked({option: value}, {option: structure}, source)
    numbers = value if isinstance(value, list | tuple) else (value,)
    low = 1 if structure in (int, [int]) and known.default != 0 else 0
    require(
        structure is Any or (bool(numbers) and all(number >= low for number in numbers)),
        f"{source}: '{option}' is {low} or more, not {value}.",
    )
    layers = value if option in DEPTHS and isinstance(value, int) else len(numbers)
    require(layers <= MOST_LAYERS, f"{source}: '{option}' is {MOST_LAYERS:,} layers at most, not {layers:,}.")
