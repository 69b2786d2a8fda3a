"""Scenes as .ply files: Gaussians as viewers of splats read them, voxels and points as bare points. Needs
``stillhouse[three_d]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.errors import StillhouseError, extra, require, required_type
from stillhouse.io.weights import atomic_write
from stillhouse.models.scenes import Gaussians, Points, Scene, Voxels

SHARE = 0.28209479177387814  # of the constant spherical harmonic, 1 / (2 sqrt pi): colour = 1/2 + SHARE f_dc
PLACE = ("x", "y", "z")
SPLAT = (
    *(f"f_dc_{i}" for i in range(3)),
    "opacity",
    *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
)
FULL = 0.5  # density logit from which a voxel is written


def write_ply(path: str | Path, scene: Scene, number: int = 0) -> Path:
    """Write an object of a scene, whole or not at all.

    Gaussians: ``x y z f_dc_* opacity scale_* rot_*``, the form of Kerbl et al., 2023 (arXiv 2308.04079),
    without view-dependent colour. Voxels: those that hold something, ``x y z red green blue``. Points:
    ``x y z``.

    Arguments:
        path: ending in ``.ply``.
        scene: Gaussians, Voxels or Points.
        number: of the object, in 0 … scenes - 1.

    Returns:
        Where it is; raises :class:`StillhouseError` for another scene, for a number that it has not, and
        where nothing would be written.
    """
    plyfile, path = extra("plyfile", "three_d"), Path(path)
    require(path.suffix == ".ply", f"A scene is written as .ply, not '{path.suffix}'.")
    require(0 <= number < scene.scenes, f"This model holds the objects 0 … {scene.scenes - 1}, not {number}.")
    fields = _fields(scene, number)
    count = len(next(iter(fields.values())))
    require(count > 0, "The scene is empty: none of its voxels holds anything.")
    table = np.zeros(
        count, dtype=[(name, "u1" if name in ("red", "green", "blue") else "f4") for name in fields]
    )
    for name, column in fields.items():
        table[name] = column.detach().cpu().numpy()
    vertices = plyfile.PlyElement.describe(table, "vertex")
    atomic_write(path, lambda part: plyfile.PlyData([vertices]).write(str(part)))
    return path


def read_ply(path: str | Path, **lens: Any) -> Gaussians | Points:
    """The scene in a .ply file; view-dependent colour is left out.

    Arguments:
        path: of the file.
        lens: ``extent``, ``pinhole`` and ``background`` of :class:`Gaussians`.

    Returns:
        Gaussians where the file describes such, else its bare points; raises :class:`StillhouseError` for a
        file that is missing, torn, empty, or holds no points.
    """
    plyfile, path = extra("plyfile", "three_d"), Path(path)
    require(path.is_file(), f"There is no scene '{path}'.")
    try:
        table = plyfile.PlyData.read(str(path))["vertex"].data
    except (plyfile.PlyParseError, KeyError, OSError, ValueError) as error:
        raise StillhouseError(f"'{path}' is no whole .ply file of points: {error}.") from error
    missing = [name for name in PLACE if name not in table.dtype.names]
    require(
        not missing and len(table) > 0,
        f"'{path}' holds no points: {'it lacks ' + ', '.join(missing) if missing else 'it is empty'}.",
    )
    splats = all(name in table.dtype.names for name in SPLAT)

    def columns(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(table[name], dtype=np.float32) for name in names], 1))

    values = columns(*PLACE, *(SPLAT if splats else ()))
    require(bool(torch.isfinite(values).all()), f"'{path}' holds numbers that are not finite.")
    if not splats:
        points = Points(count=len(table))
        points.centre.data = values[None]
        return points
    scene = Gaussians(count=len(table), **lens)
    parts = dict(
        zip(("centre", "colour", "opacity", "size", "turn"), values.split([3, 3, 1, 3, 4], 1), strict=True)
    )
    parts["colour"] = torch.logit((0.5 + SHARE * parts["colour"]).clamp(0, 1), eps=1e-4)
    parts["opacity"] = parts["opacity"][:, 0]
    scene.load_state_dict({name: value[None] for name, value in parts.items()})
    return scene


def _fields(scene: Scene, number: int) -> dict[str, Tensor]:
    """The columns of the file, each (N,)."""
    if isinstance(scene, Gaussians):
        colour = (torch.sigmoid(scene.colour[number]) - 0.5) / SHARE
        turn = F.normalize(scene.turn[number], dim=-1)
        parts = [scene.centre[number], colour, scene.opacity[number][:, None], scene.size[number], turn]
        return dict(zip((*PLACE, *SPLAT), torch.cat(parts, 1).float().unbind(1), strict=True))
    if isinstance(scene, Points):
        return dict(zip(PLACE, scene.centre[number].float().unbind(1), strict=True))
    voxels = required_type(scene, Voxels, f"A {scene.name} scene has no place in space, and no .ply file.")
    full = voxels.density[number, 0] > FULL
    edge = full.shape[0]
    place = (full.nonzero() * (2 / (edge - 1)) - 1) * voxels.reach
    colour = (torch.sigmoid(voxels.colour[number][:, full]) * 255).round()
    return dict(zip((*PLACE, "red", "green", "blue"), (*place.unbind(1), *colour), strict=True))
