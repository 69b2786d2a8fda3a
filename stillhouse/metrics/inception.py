"""The Inception network of the usual Fréchet distance (Szegedy et al., 2016, arXiv 1512.00567; as FID uses
it: Heusel et al., 2017, arXiv 1706.08500), for weights that the user has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.checked import tensors_of

SIDE, WIDTH = 299, 2048  # pixels of a picture, and features of it
CLASSES = 1008  # of the weights of 2015, with which FID is measured; those of ImageNet have 1000
ENDINGS = (".safetensors", ".pth", ".pt")
# a convolution: input and output channels, kernel, stride; a kernel of one number is square
Layer = tuple[int, int, int | tuple[int, int], int]


class Unit(nn.Module):
    """Convolution, normalisation over the batch, ReLU; padded to keep the size unless the stride is 2 or the
    unit is ``valid``."""

    def __init__(self, layer: Layer, valid: bool = False) -> None:
        super().__init__()
        before, after, kernel, stride = layer
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid or stride > 1 else (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(before, after, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches beside each other. ``branches``: by name the layers of each; one whose last name ends with
    ``a`` ends in two layers beside each other. ``pool``: ``average`` or ``max`` before the branch
    ``branch_pool``, ``stride`` for a plain pooling that halves the size. ``padded``: whether an average
    counts the padding."""

    def __init__(self, branches: Mapping[str, Sequence[Layer]], pool: str, padded: bool) -> None:
        super().__init__()
        self.pool, self.padded = pool, padded
        self.names = [_numbered(name, layers) for name, layers in branches.items()]
        for names, layers in zip(self.names, branches.values(), strict=True):
            for name, layer in zip(names, layers, strict=True):
                self.add_module(name, Unit(layer))

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for names in self.names:
            part = self._pooled(x) if names == ["branch_pool"] else x
            *stem, last = names
            if last.endswith("b"):
                *stem, first = stem
                for name in stem:
                    part = self.get_submodule(name)(part)
                part = torch.cat([self.get_submodule(name)(part) for name in (first, last)], 1)
            else:
                for name in names:
                    part = self.get_submodule(name)(part)
            parts.append(part)
        return torch.cat([*parts, self._pooled(x)] if self.pool == "stride" else parts, 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "stride":
            return F.max_pool2d(x, 3, 2)
        if self.pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.padded)


def _numbered(name: str, layers: Sequence[Layer]) -> list[str]:
    """Names of a branch's layers: its own for a single one, else with a number; the last two of a branch that
    ends in a pair (1 x 3 beside 3 x 1) share one."""
    if len(layers) == 1:
        return [name]
    names = [f"{name}_{i}" for i in range(1, len(layers) + 1)]
    if (layers[-2][2], layers[-1][2]) == ((1, 3), (3, 1)):
        names[-2:] = [f"{name}_{len(layers) - 1}a", f"{name}_{len(layers) - 1}b"]
    return names


def _fine(width: int, pool: int) -> dict[str, list[Layer]]:
    return {
        "branch1x1": [(width, 64, 1, 1)],
        "branch5x5": [(width, 48, 1, 1), (48, 64, 5, 1)],
        "branch3x3dbl": [(width, 64, 1, 1), (64, 96, 3, 1), (96, 96, 3, 1)],
        "branch_pool": [(width, pool, 1, 1)],
    }


def _middle(c: int) -> dict[str, list[Layer]]:
    return {
        "branch1x1": [(768, 192, 1, 1)],
        "branch7x7": [(768, c, 1, 1), (c, c, (1, 7), 1), (c, 192, (7, 1), 1)],
        "branch7x7dbl": [
            (768, c, 1, 1),
            (c, c, (7, 1), 1),
            (c, c, (1, 7), 1),
            (c, c, (7, 1), 1),
            (c, 192, (1, 7), 1),
        ],
        "branch_pool": [(768, 192, 1, 1)],
    }


def _coarse(width: int) -> dict[str, list[Layer]]:
    pair: list[Layer] = [(384, 384, (1, 3), 1), (384, 384, (3, 1), 1)]
    return {
        "branch1x1": [(width, 320, 1, 1)],
        "branch3x3": [(width, 384, 1, 1), *pair],
        "branch3x3dbl": [(width, 448, 1, 1), (448, 384, 3, 1), *pair],
        "branch_pool": [(width, 192, 1, 1)],
    }


class Inception(nn.Module):
    """Inception v3 up to its pooled features, with the names that its published weights have.

    ``classes``: of the weights; with those of 2015 (1008) averages leave the padding out and the last block
    takes the maximum, as FID's network does.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        padded = classes != CLASSES
        self.Conv2d_1a_3x3 = Unit((3, 32, 3, 2), valid=True)
        self.Conv2d_2a_3x3 = Unit((32, 32, 3, 1), valid=True)
        self.Conv2d_2b_3x3 = Unit((32, 64, 3, 1))
        self.Conv2d_3b_1x1 = Unit((64, 80, 1, 1))
        self.Conv2d_4a_3x3 = Unit((80, 192, 3, 1), valid=True)
        halved: dict[str, list[Layer]] = {
            "branch3x3": [(288, 384, 3, 2)],
            "branch3x3dbl": [(288, 64, 1, 1), (64, 96, 3, 1), (96, 96, 3, 2)],
        }
        again: dict[str, list[Layer]] = {
            "branch3x3": [(768, 192, 1, 1), (192, 320, 3, 2)],
            "branch7x7x3": [(768, 192, 1, 1), (192, 192, (1, 7), 1), (192, 192, (7, 1), 1), (192, 192, 3, 2)],
        }
        self.Mixed_5b = Mixed(_fine(192, 32), "average", padded)
        self.Mixed_5c = Mixed(_fine(256, 64), "average", padded)
        self.Mixed_5d = Mixed(_fine(288, 64), "average", padded)
        self.Mixed_6a = Mixed(halved, "stride", padded)
        self.Mixed_6b = Mixed(_middle(128), "average", padded)
        self.Mixed_6c = Mixed(_middle(160), "average", padded)
        self.Mixed_6d = Mixed(_middle(160), "average", padded)
        self.Mixed_6e = Mixed(_middle(192), "average", padded)
        self.Mixed_7a = Mixed(again, "stride", padded)
        self.Mixed_7b = Mixed(_coarse(1280), "average", padded)
        self.Mixed_7c = Mixed(_coarse(2048), "average" if padded else "max", padded)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of pictures (B, 3, H, W) in [-1, 1] of any size."""
        x = images.float().clamp(-1, 1)
        if x.shape[-2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
        for name, block in self.named_children():
            x = block(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean((2, 3))


def inception_file(path: Path) -> Path | None:
    """The weights of an Inception at a path: a file of them, or the one in a folder that no network of
    Transformers lies in; None where there is none."""
    if path.is_file():
        return path if path.suffix in ENDINGS else None
    found = [
        f for f in sorted(path.glob("*")) if f.suffix in ENDINGS and "inception" in f"{path.name}{f.name}"
    ]
    return found[0] if found else None


def open_inception(file: Path) -> tuple[Inception, bool]:
    """Inception v3 with the weights of a file, by the names of pytorch-fid and torchvision.

    Arguments:
        file: safetensors, or tensors alone in PyTorch's own format; no pickle that needs more is opened.

    Returns:
        The network, frozen; and whether the weights are those of 2015, with which FID is measured.

    Raises:
        StillhouseError: for anything but these weights.
    """
    try:
        if file.suffix == ".safetensors":
            held: Any = tensors_of(file)
        else:
            held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or foreign file fails in errors of three libraries
        reason = " ".join(str(error).split())[:200]
        raise StillhouseError(
            f"'{file}' can't be read as weights: {type(error).__name__}: {reason}"
        ) from error
    require(isinstance(held, dict), f"'{file}' holds no weights by name.")
    classes = len(held["fc.bias"]) if "fc.bias" in held else CLASSES
    net = Inception(classes)
    wanted = net.state_dict()
    missing = [n for n in wanted if n not in held and not n.endswith("num_batches_tracked")]
    require(
        not missing,
        f"'{file}' holds no Inception v3: {len(missing)} of its tensors are missing, "
        f"'{(missing or [''])[0]}' first.",
    )
    odd = next((n for n in wanted if n in held and held[n].shape != wanted[n].shape), "")
    require(not odd, f"'{file}' holds no Inception v3: '{odd}' is of another shape.")
    net.load_state_dict({**wanted, **{n: held[n] for n in wanted if n in held}})
    return net.eval().requires_grad_(False), classes == CLASSES
