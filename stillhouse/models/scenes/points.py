"""Scenes without a picture: bare points that cameras project, and samples that are their own scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.errors import require
from stillhouse.models.scenes.base import Scene
from stillhouse.models.scenes.camera import Lens, axes


def flat(place: Tensor, vectors: Tensor) -> Tensor:
    """Vectors in space, projected by orthographic cameras.

    Arguments:
        place: where the cameras stand, (B, 3).
        vectors: in space, (B, P, 3).

    Returns:
        To the right and up, in the units of the space, (B, P, 2).
    """
    return vectors @ axes(place)[:, :2].mT


class Points(Scene):
    """Points in space, all at the origin at first; a view is their orthographic projection, in the units of
    the space.

    Arguments:
        scenes: how many, at least 1.
        count: points a scene, at least 1.
    """

    name = "points"

    def __init__(self, scenes: int = 1, count: int = 1):
        super().__init__(locals())
        require(
            scenes >= 1 and count >= 1,
            f"A scene holds at least one point, and there is at least one: not {count} in {scenes}.",
        )
        self.scenes, self.lens = scenes, Lens(1.0, pinhole=False)
        self.centre = nn.Parameter(torch.zeros(scenes, count, 3))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, 2 count), or any shape of as many numbers -> the projections, of the same shape."""
        which, place = self.scene_and_camera(x, cond)
        seen = flat(place, self.centre[which].to(x.dtype))
        require(
            seen.numel() == x.numel(),
            f"{seen.shape[1]} points are seen as {2 * seen.shape[1]} numbers, not as {tuple(x.shape[1:])}.",
        )
        return seen.reshape(x.shape)


class Plain(Scene):
    """Samples that are their own scenes, with no camera: a bare picture, a point in the plane. All 0 at
    first.

    Arguments:
        size: shape of a sample.
        scenes: how many, at least 1.
    """

    name = "plain"

    def __init__(self, size: Sequence[int] = (2,), scenes: int = 1):
        super().__init__(locals())
        require(scenes >= 1, f"There is at least one scene, not {scenes}.")
        self.scenes, self.lens = scenes, Lens(1.0, pinhole=False)
        self.sample = nn.Parameter(torch.zeros(scenes, *size))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, *size), whose size alone counts -> the samples."""
        size = tuple(self.sample.shape[1:])
        require(
            tuple(x.shape[1:]) == size,
            f"This plain scene holds samples of shape {size}, not {tuple(x.shape[1:])}.",
        )
        which = (
            cond["scene"]
            if isinstance(cond, dict) and "scene" in cond
            else x.new_zeros(len(x), dtype=torch.long)
        )
        return self.sample[which].to(x.dtype)
