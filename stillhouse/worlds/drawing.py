"""Drawing scenes of one or two coloured shapes: signed distances, antialiased, a whole batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.metrics.captions import COLOURS, parts

SIDE = 32
MARGIN = 1.0  # pixels between an object and the border, and at least between two objects
# red, green and blue of each colour in [0, 1]: far from each other, and from the backgrounds, which are dark
PAINT = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.15, 0.38, 1.00),
    "yellow": (1.00, 0.88, 0.10),
    "purple": (0.72, 0.22, 0.85),
    "white": (0.97, 0.97, 0.97),
}


@dataclass(frozen=True)
class Scene:
    """``B`` scenes of up to two objects, the canonical first one first. Lengths are in pixels, ``y`` runs
    down.

    ``shape, colour``: (B, 2) int64, -1 where there is no second object. ``centre``: (B, 2, 2), x and y.
    ``size``: (B, 2), half the side of the square that the object stays in. ``angle``: (B, 2), radians.
    ``background``: (B, 3), red, green, blue in [0, 1].
    """

    shape: Tensor
    colour: Tensor
    centre: Tensor
    size: Tensor
    angle: Tensor
    background: Tensor


def compose(ids: Tensor, draws: Draws) -> Scene:
    """Random scenes of given captions.

    Objects are 9 to 14 pixels wide, single ones up to 20. Of two, the second lies lower (or further right) by
    at least both half sizes and a pixel, and to the side by at most half as much, so that no relation is in
    doubt.

    Arguments:
        ids: numbers of captions, (B,).
        draws: the source of all that a caption leaves open, of B rows.

    Returns:
        B scenes.
    """
    pred = parts(ids)
    two = pred.layout > 0
    size = torch.where(two[:, None], draws.uniform(4.5, 7.0, 2), draws.uniform(4.5, 10.0, 1))
    room = SIDE - 2 * MARGIN - 2 * size.sum(1) - MARGIN
    before, between = (
        room[:, None] * draws.uniform(0, 1, 2).sort(1).values.diff(prepend=torch.zeros(len(ids), 1))
    ).unbind(1)
    first = MARGIN + size[:, 0] + before
    second = first + size.sum(1) + MARGIN + between
    low, high = MARGIN + size, SIDE - MARGIN - size
    side = low + (high - low) * draws.uniform(0, 1, 2)
    reach = (0.5 * (second - first)).clamp_min(0)
    beside = torch.minimum(torch.maximum(side[:, 1], side[:, 0] - reach), side[:, 0] + reach)
    along = torch.stack(
        [torch.where(two, first, side[:, 1]), second], 1
    )  # the second number of `side` is free where there is one object
    across = torch.stack([side[:, 0], torch.minimum(torch.maximum(beside, low[:, 1]), high[:, 1])], 1)
    upright = (pred.layout == 1)[:, None]
    centre = torch.stack([torch.where(upright, across, along), torch.where(upright, along, across)], 2)
    grey = draws.uniform(0.04, 0.34, 1)
    background = (grey + draws.uniform(-0.06, 0.06, 3)).clamp(0, 1)
    shape, colour = torch.stack([pred.shape1, pred.shape2], 1), torch.stack([pred.colour1, pred.colour2], 1)
    return Scene(shape, colour, centre, size, draws.uniform(-0.2, 0.2, 2), background)


def _box(x: Tensor, y: Tensor, wide: Tensor, high: Tensor) -> Tensor:
    """Signed distance to a box around the origin with half sides ``wide`` and ``high``."""
    right, down = x.abs() - wide, y.abs() - high
    return torch.hypot(right.clamp_min(0), down.clamp_min(0)) + torch.maximum(right, down).clamp_max(0)


def distance(shape: Tensor, x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """Signed distance in pixels, negative inside, of points to the outlines of shapes; the arguments
    broadcast.

    Circle, square, triangle and cross are about equally large at the same ``size``.

    Arguments:
        shape: places in the list of shapes, int64; -1 counts as 0.
        x: of the points, in pixels from the centre of the shape, to the right.
        y: likewise, downwards.
        size: half the side of the square that the shape stays in, in pixels.

    Returns:
        Distances, of the broadcast shape.
    """
    slope = math.sqrt(3) / 2
    triangle = torch.maximum(y - 0.62 * size, slope * x.abs() - 0.5 * y - 0.56 * size)
    cross = torch.minimum(_box(x, y, 0.98 * size, 0.34 * size), _box(x, y, 0.34 * size, 0.98 * size))
    kinds = [torch.hypot(x, y) - 0.94 * size, _box(x, y, 0.82 * size, 0.82 * size), triangle, cross]
    return torch.stack(kinds).gather(0, shape.clamp_min(0).expand_as(kinds[0])[None])[0]


def masks(scene: Scene) -> Tensor:
    """How much of each pixel each object covers, (B, 2, 32, 32) in [0, 1]; zero for an object that is not
    there."""
    line = torch.arange(SIDE, dtype=torch.float32, device=scene.size.device) + 0.5
    wide = (..., None, None)
    x, y = (
        line[None, None, None] - scene.centre[..., 0][wide],
        line[None, None, :, None] - scene.centre[..., 1][wide],
    )
    cos, sin = scene.angle.cos()[wide], scene.angle.sin()[wide]
    apart = distance(scene.shape[wide], cos * x + sin * y, cos * y - sin * x, scene.size[wide])
    return (0.5 - apart).clamp(0, 1) * (scene.shape >= 0)[wide]


def draw(scene: Scene) -> Tensor:
    """Images (B, 3, 32, 32) float32 in [-1, 1]."""
    paint = torch.tensor([PAINT[name] for name in COLOURS], device=scene.size.device)[scene.colour]
    image = scene.background[:, :, None, None].expand(-1, -1, SIDE, SIDE)
    for i, cover in enumerate(masks(scene).unbind(1)):
        image = torch.lerp(image, paint[:, i, :, None, None].expand_as(image), cover[:, None])
    return 2 * image - 1
