"""Solids of two parts, seen by walking along rays in steps of their signed distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.models.scenes.camera import Lens, pixel_centres

BODIES = ("ball", "box", "drum", "cone")
PAINT = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.15, 0.38, 1.00),
    "yellow": (1.00, 0.88, 0.10),
}
NOSES = {"black": (0.08, 0.08, 0.08), "pink": (1.00, 0.45, 0.80)}
LIGHT = (0.5, -0.4, 0.77)  # where it comes from
WALK, FINE = 24, 2  # steps along a ray; rays a pixel, each way
Distance = Callable[[Tensor], Tensor]


def _inside(q: Tensor) -> Tensor:
    """The distance of a shape whose faces are ``q`` (…, N) away, each along an axis of its own."""
    distance: Tensor = q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)
    return distance


def body(name: str) -> Distance:
    """Signed distance (…) of points (…, 3) from the large part, about 0.6 in radius."""
    if name == "ball":
        return lambda p: p.norm(dim=-1) - 0.62
    if name == "box":
        return lambda p: _inside(p.abs() - 0.5)
    if name == "drum":
        return lambda p: _inside(torch.stack([p[..., :2].norm(dim=-1) - 0.5, p[..., 2].abs() - 0.6], -1))
    # a cone's flank rises by 2 over 1: its normal is (2, 1) / sqrt 5
    return lambda p: torch.maximum(
        (2 * p[..., :2].norm(dim=-1) + p[..., 2] - 0.75) / 5**0.5, -0.6 - p[..., 2]
    )


def nose(p: Tensor) -> Tensor:
    """Signed distance of the small ball in front, hidden from behind."""
    distance: Tensor = (p - p.new_tensor([0.62, 0.0, 0.05])).norm(dim=-1) - 0.26
    return distance


def look(name: str, lens: Lens, places: Tensor, side: int) -> dict[str, Tensor]:
    """Masks and shading of one body with its nose, rendered ``FINE`` times finer than the picture, to be
    averaged into smooth edges.

    Arguments:
        name: one of ``BODIES``.
        lens: of the cameras.
        places: where the cameras stand, (K, 3).
        side: of the picture in pixels.

    Returns:
        ``body`` and ``nose``, where each is in front (bool), ``shade`` in [0.45, 1] and ``depth`` along the
        axis, each (K, FINE side, FINE side).
    """
    far, side = body(name), side * FINE
    at, distance = pixel_centres(side, places), places.norm(dim=1)[:, None]

    def both(p: Tensor) -> Tensor:
        return torch.minimum(far(p), nose(p))

    ones = torch.ones(len(places), len(at))
    start = lens.point(places, at, (distance - 1.2) * ones)
    ray = F.normalize(lens.point(places, at, distance * ones) - start, dim=-1)
    p = start
    for _ in range(WALK):
        p = p + both(p)[..., None] * ray
    hit, step = both(p) < 0.01, 1e-3 * torch.eye(3)
    normal = F.normalize(torch.stack([both(p + e) - both(p - e) for e in step], -1), dim=-1)
    shade = 0.45 + 0.55 * (normal @ torch.tensor(LIGHT)).clamp_min(0)
    first = nose(p) < far(p)
    made = {"body": hit & ~first, "nose": hit & first, "shade": shade, "depth": lens.see(places, p)[1]}
    return {key: value.reshape(len(places), side, side) for key, value in made.items()}


def painted(seen: dict[str, Tensor], colour: str, tip: str, background: float) -> Tensor:
    """Pictures of a body in two colours.

    Arguments:
        seen: what :func:`look` returns.
        colour: of the body, one of ``PAINT``.
        tip: colour of the nose, one of ``NOSES``.
        background: its grey in [-1, 1].

    Returns:
        Pictures in [-1, 1], (K, 3, side, side).
    """
    rgb = (
        seen["body"][:, None] * torch.tensor(PAINT[colour])[:, None, None]
        + seen["nose"][:, None] * torch.tensor(NOSES[tip])[:, None, None]
    )
    empty = ~(seen["body"] | seen["nose"])[:, None]
    return F.avg_pool2d((2 * rgb * seen["shade"][:, None] - 1) * ~empty + background * empty, FINE)
