"""Cameras that look at the origin with ``z`` up: each is determined by its place.

A *place* (3,) is that point in space. Image coordinates are ``u`` to the right and ``v`` upwards, from -1 to
1 across the picture, whose first row is the top one. Depth is the distance from the camera along its axis,
not along the ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.errors import require


def orbit(
    count: int, distance: float = 1.0, elevations: tuple[float, ...] = (20.0,), turn: float = 0.0
) -> Tensor:
    """Places around the origin at equal angles.

    Arguments:
        count: how many, at least 1.
        distance: from the origin, above 0.
        elevations: in degrees, taken in turn.
        turn: of all places about ``z``, in degrees.

    Returns:
        Places, (count, 3).
    """
    require(
        count >= 1 and distance > 0,
        f"An orbit has one place or more at a positive distance, not {count} at {distance}.",
    )
    azimuth = (torch.arange(count) / count + turn / 360) * 2 * math.pi
    height = torch.deg2rad(torch.tensor([elevations[i % len(elevations)] for i in range(count)]))
    return distance * torch.stack(
        [height.cos() * azimuth.cos(), height.cos() * azimuth.sin(), height.sin()], 1
    )


def axes(place: Tensor) -> Tensor:
    """Unit vectors right, up and back of the cameras at ``place`` (B, 3), as rows: (B, 3, 3). Right above the
    origin ``y`` is up."""
    back = F.normalize(place, dim=1)
    pole = back[:, :2].norm(dim=1, keepdim=True) < 1e-4
    upright = torch.where(pole, place.new_tensor([0.0, 1.0, 0.0]), place.new_tensor([0.0, 0.0, 1.0]))
    right = F.normalize(torch.linalg.cross(upright, back), dim=1)
    return torch.stack([right, torch.linalg.cross(back, right), back], 1)


def pixel_centres(side: int, reference: Tensor) -> Tensor:
    """Image coordinates of the pixels of a square picture.

    Arguments:
        side: of the picture, in pixels.
        reference: a tensor whose dtype and device the result has.

    Returns:
        Coordinates in (-1, 1), row by row, (side^2, 2).
    """
    line = (torch.arange(side, device=reference.device, dtype=reference.dtype) + 0.5) * (2 / side) - 1
    return torch.stack([line.expand(side, side), -line[:, None].expand(side, side)], -1).reshape(-1, 2)


def pixel_corners(side: int, reference: Tensor) -> Tensor:
    """Image coordinates of the corners of the pixels.

    Arguments:
        side: of the picture, in pixels.
        reference: a tensor whose dtype and device the result has.

    Returns:
        Coordinates in [-1, 1], row by row, ((side + 1)^2, 2).
    """
    line = torch.arange(side + 1, device=reference.device, dtype=reference.dtype) * (2 / side) - 1
    return torch.stack(
        [line.expand(side + 1, side + 1), -line[:, None].expand(side + 1, side + 1)], -1
    ).reshape(-1, 2)


@dataclass(frozen=True)
class Lens:
    """How points in space become image coordinates.

    Arguments:
        extent: half the width of what is seen in the plane through the origin.
        pinhole: things shrink with depth; else orthographic.
    """

    extent: float = 1.0
    pinhole: bool = True

    def _zoom(self, depth: Tensor, distance: Tensor) -> Tensor:
        """How much larger than in the plane through the origin something looks at ``depth``."""
        return distance / depth.clamp_min(1e-3) if self.pinhole else torch.ones_like(depth)

    def see(self, place: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project points.

        Arguments:
            place: where the cameras stand, (B, 3).
            points: in space, (B, N, 3).

        Returns:
            Image coordinates (B, N, 2) and depths (B, N).
        """
        seen, distance = points @ axes(place).mT, place.norm(dim=1)[:, None]
        depth = distance - seen[..., 2]
        return seen[..., :2] / self.extent * self._zoom(depth, distance)[..., None], depth

    def slope(self, place: Tensor, points: Tensor) -> Tensor:
        """Derivative of the projection.

        Arguments:
            place: where the cameras stand, (B, 3).
            points: in space, (B, N, 3).

        Returns:
            Derivatives of the image coordinates in the points, (B, N, 2, 3).
        """
        frame, distance = axes(place), place.norm(dim=1)[:, None]
        flat = frame[:, None, :2] / self.extent
        if not self.pinhole:
            return flat.expand(-1, points.shape[1], 2, 3)
        seen, depth = self.see(place, points)
        # u = right . p / extent * distance / depth, and depth falls by one as p moves back towards the camera
        zoom = self._zoom(depth, distance)[..., None, None]
        return flat * zoom + seen[..., None] * frame[:, None, 2:] / depth.clamp_min(1e-3)[..., None, None]

    def stretch(self, place: Tensor, at: Tensor) -> Tensor:
        """How much longer a way along the rays is than its depth.

        Arguments:
            place: where the cameras stand, (B, 3).
            at: image coordinates that the rays pass through, (N, 2).

        Returns:
            Lengths per unit of depth, at least 1, (B, N).
        """
        across = at.norm(dim=1) * self.extent / place.norm(dim=1)[:, None]
        return (1 + across.square()).sqrt() if self.pinhole else torch.ones_like(across)

    def point(self, place: Tensor, at: Tensor, depth: Tensor) -> Tensor:
        """The inverse of :meth:`see`.

        Arguments:
            place: where the cameras stand, (B, 3).
            at: image coordinates, (N, 2) or (B, N, 2).
            depth: along the cameras' axes, (B, N).

        Returns:
            Points in space, (B, N, 3).
        """
        distance = place.norm(dim=1)[:, None]
        across = at * self.extent / self._zoom(depth, distance)[..., None]
        return torch.cat([across.expand(*depth.shape, 2), (distance - depth)[..., None]], -1) @ axes(place)
