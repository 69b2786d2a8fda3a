"""A scene as a grid of density and colour, seen by marching along rays."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.scenes.base import Rendered, Rendering, over, passing
from stillhouse.models.scenes.camera import Lens, pixel_centres

TRUST = 0.01  # opacity below which a depth means nothing


class Voxels(Rendered):
    """A grid of densities and colours, interpolated; light is absorbed on the way (Mildenhall et al., 2020,
    arXiv 2003.08934, eq. 3).

    The density is a soft bump around the middle at first, the colour grey.

    Arguments:
        scenes: how many, at least 1.
        edge: voxels along each side of the cube, at least 2.
        steps: samples along a ray, at least 2.
        reach: half the cube's side.
        extent: of the lens.
        pinhole: lens; else orthographic.
        background: grey behind the scene, in [-1, 1].
    """

    name = "voxels"

    def __init__(
        self,
        scenes: int = 1,
        edge: int = 16,
        steps: int = 24,
        reach: float = 1.0,
        extent: float = 1.0,
        pinhole: bool = True,
        background: float = 1.0,
    ):
        super().__init__(locals())
        require(
            scenes >= 1 and edge >= 2 and steps >= 2,
            f"A grid has two voxels an edge and two steps a ray at least, not {edge} and {steps}.",
        )
        self.scenes, self.lens, self.reach, self.steps, self.background = (
            scenes,
            Lens(extent, pinhole),
            reach,
            steps,
            background,
        )
        line = torch.linspace(-1, 1, edge)
        bump = 0.5 - 2 * torch.stack(torch.meshgrid(line, line, line, indexing="ij")).square().sum(0)
        self.density = nn.Parameter(bump.expand(scenes, 1, edge, edge, edge).clone())
        self.colour = nn.Parameter(0.1 * torch.randn(scenes, 3, edge, edge, edge))

    def render(self, which: Tensor, place: Tensor, side: int) -> Rendering:
        rows, at = len(which), pixel_centres(side, place)
        long = 2 * self.reach * math.sqrt(3) / self.steps
        along = (
            torch.arange(self.steps, device=place.device, dtype=place.dtype) + 0.5
        ) * long - self.reach * math.sqrt(3)
        depth = (
            (place.norm(dim=1)[:, None] + along)[:, None].expand(rows, len(at), self.steps).reshape(rows, -1)
        )
        points = self.lens.point(place, at.repeat_interleave(self.steps, 0), depth) / self.reach
        grid = torch.cat([self.density, self.colour], 1)[which]
        # grid_sample counts the last axis of the grid first
        found = F.grid_sample(grid, points.flip(-1)[:, None, None], align_corners=True).reshape(
            rows, 4, -1, self.steps
        )
        inside = (points.abs() <= 1).all(-1).reshape(rows, -1, self.steps)
        inside = inside & (depth > 0).reshape(rows, -1, self.steps)
        steps = long * self.lens.stretch(place, at)[..., None]
        alpha = -torch.expm1(-4 * F.softplus(2 * found[:, 0]) * steps) * inside
        weight = alpha * passing(alpha, 2)
        opacity, rgb = weight.sum(2), torch.einsum("bps,bcps->bcp", weight, torch.sigmoid(found[:, 1:]))
        mean = (weight * depth.reshape(rows, -1, self.steps)).sum(2) / opacity.clamp_min(TRUST)
        picture = over(rgb, opacity, self.background).reshape(rows, 3, side, side)
        return Rendering(picture, opacity.reshape(rows, side, side), mean.reshape(rows, side, side))
