"""Folders of vision networks as Transformers keeps them, looked through before they are opened, and pictures
as such a network takes them. Nothing is downloaded, and no pickle is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, tensor

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.checked import json_of

PREPARED = ("preprocessor_config.json", "processor_config.json")  # how a folder's pictures are prepared
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
MEAN, STD = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)  # of the pictures CLIP was trained on


def read_json(file: Path, what: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Arguments:
        file: to read.
        what: the network of its folder, for the error's sentence.

    Returns:
        Plain data. Raises :class:`StillhouseError` for a missing or torn file.
    """
    require(file.is_file(), f"The {what}'s folder '{file.parent}' has no {file.name}; copy the whole folder.")
    read: dict[str, Any] = json_of(file)
    return read


def require_safe_weights(folder: Path, what: str, class_name: str) -> None:
    """Refuse a folder without safetensors, before anything is opened.

    Arguments:
        folder: of the network.
        what: the network, for the error's sentence.
        class_name: of Transformers, which could convert a pickle.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
    require(
        not pickled,
        f"'{folder / (pickled or [''])[0]}' is a pickle, which can run code when opened; convert it where "
        "you "
        f"trust it: {class_name}.from_pretrained('{folder}').save_pretrained('{folder}-safe').",
    )
    raise StillhouseError(
        f"The {what}'s folder '{folder}' has no weights (*.safetensors); copy the whole folder."
    )


def preparation(folder: Path, what: str) -> dict[str, Any]:
    """How a folder states that pictures are prepared.

    Arguments:
        folder: of the network.
        what: the network, for the error's sentence.

    Returns:
        What ``preprocessor_config.json`` (or ``processor_config.json``) holds; empty without either.
    """
    for name in PREPARED:
        if (folder / name).is_file():
            stated = read_json(folder / name, what)
            # newer folders keep it one level down
            return {"file": str(folder / name), **stated.get("image_processor", stated)}
    return {}


def pixel_moments(
    folder: Path, what: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The mean and deviation of pixels that a folder states.

    Arguments:
        folder: of the network.
        what: the network, for the error's sentence.
        mean: in [0, 1], by channel, where the folder states none.
        std: likewise, above 0.

    Returns:
        Both as (1, 3, 1, 1) float32. Raises :class:`StillhouseError` for anything but three numbers.
    """
    stated = preparation(folder, what)
    found = stated.get("image_mean", mean), stated.get("image_std", std)
    for one in found:
        right = (
            isinstance(one, list | tuple) and len(one) == 3 and all(isinstance(v, int | float) for v in one)
        )
        require(
            right, f"'{stated.get('file')}' states {one!r} where three numbers, one a channel, are needed."
        )
    require(
        min(found[1]) > 0,
        f"'{stated.get('file')}' states a deviation of {min(found[1])}; it must be more than 0.",
    )
    return tensor(found[0]).view(1, 3, 1, 1), tensor(found[1]).view(1, 3, 1, 1)


def prepared(images: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """Pictures as a network takes them: the shorter side resized, the middle cut out, normalised.

    Arguments:
        images: in [-1, 1], (B, 3, H, W).
        size: of the network's square input, in pixels.
        mean: of pixels in [0, 1], (1, 3, 1, 1).
        std: likewise, above 0.

    Returns:
        (B, 3, size, size) float32, differentiable in the images.
    """
    x = (images.float() + 1) / 2
    height, width = x.shape[2:]
    short = min(height, width)
    if short != size:
        x = F.interpolate(
            x, (int(size * height / short), int(size * width / short)), mode="bicubic", antialias=True
        )
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    x = x[:, :, top : top + size, left : left + size]
    return (x.clamp(0, 1) - mean.to(x)) / std.to(x)
