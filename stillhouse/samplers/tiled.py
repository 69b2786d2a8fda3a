"""Images of any size by a network of small ones: overlapping tiles, blended at every step.

One canvas is walked, not many tiles. Its noise is drawn once, so that neighbours have the same noise where
they overlap: tiles with noise of their own make up other details, and blended they lose some of them (on the
shipped teacher an eighth of the detail's energy within the overlaps). And before every step the tiles' clean
estimates become one (Bar-Tal et al., 2023, arXiv 2302.08113, eq. 5, with a window as the weights), so that
any solver, a stochastic one too, walks the canvas as if by one network of its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stillhouse.core.conditions import Condition, CondT, apply
from stillhouse.core.denoiser import Denoiser, Wrapped
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.prediction import At, Prediction
from stillhouse.samplers.draw import NONE, draw_samples
from stillhouse.samplers.sampling import Sampling

GRID = (
    8  # tiles begin at multiples of this: where the pixels of a smaller copy and the blocks of a JPEG begin
)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles along one side of an image begin, so that they cover it.

    Arguments:
        length: of the side, in pixels.
        tile: side of a tile, in pixels.
        overlap: pixels that neighbours share, at least; less than ``tile``.

    Returns:
        Rising offsets in pixels, the last one ``length - tile``; [0] where one tile is enough.
    """
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def ramp(tile: int, overlap: int) -> Tensor:
    """Blending weights along one side of a tile.

    Arguments:
        tile: side of a tile, in pixels.
        overlap: pixels over which the weights rise from 0 and fall again, without reaching 0.

    Returns:
        Weights in (0, 1], (tile,).
    """
    place = torch.arange(tile) + 0.5
    return (torch.minimum(place, tile - place) / max(overlap, 0.5)).clamp(max=1)


class Tiled(Wrapped):
    """``denoiser`` on images (B, C, H, W) of any H and W divisible by :data:`GRID`, a tile at a time; a
    denoiser again.

    ``tile``: side of the square tiles; ``overlap``: pixels that neighbours share; both divisible by
    :data:`GRID`. ``batch``: tiles per call. An ``image`` in the condition is cut like the state. ``tick(n)``
    is called with the number of tiles of each call. Every kind of output is affine in the clean estimate and
    the weights sum to one, so it is the raw outputs that are blended.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        tile: int = 64,
        overlap: int = 16,
        batch: int = 16,
        tick: Callable[[int], object] | None = None,
    ):
        require(tile >= GRID and tile % GRID == 0, f"The side of a tile is divisible by {GRID}, not {tile}.")
        good = 0 <= overlap <= tile // 2 and overlap % GRID == 0
        require(
            good,
            f"Tiles of {tile} pixels overlap by 0 to {tile // 2 // GRID * GRID}, divisible by {GRID}, not "
            f"by {overlap}.",
        )
        super().__init__(denoiser)
        self.tile, self.overlap, self.batch, self.tick = tile, overlap, batch, tick

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Where the tiles of an image lie.

        Arguments:
            height: of the image, in pixels.
            width: of the image, in pixels.

        Returns:
            Top and left of every tile, row by row.
        """
        return [
            (top, left)
            for top in starts(height, self.tile, self.overlap)
            for left in starts(width, self.tile, self.overlap)
        ]

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition = None, **extra: Any) -> Prediction:
        height, width = x_t.shape[-2:]
        require(
            height % GRID == width % GRID == 0,
            f"Tiles cover images with sides divisible by {GRID}, not {height} x {width}.",
        )
        high, wide = min(self.tile, height), min(self.tile, width)
        window = (ramp(high, self.overlap)[:, None] * ramp(wide, self.overlap)).to(x_t)
        total, weight = torch.zeros_like(x_t), x_t.new_zeros(height, width)
        places = self.places(height, width)
        for top, left in places:
            weight[top : top + high, left : left + wide] += window
        for some in (places[i : i + self.batch] for i in range(0, len(places), self.batch)):
            # rows of one call: all images at the first place, then all at the second …
            cuts = [(..., slice(top, top + high), slice(left, left + wide)) for top, left in some]

            def cut(image: Tensor, cuts: list[Any] = cuts) -> Tensor:
                return torch.cat([image[c] for c in cuts])

            def repeat(rows: CondT, n: int = len(some)) -> CondT:
                return apply(lambda part: part.repeat(n, *[1] * (part.dim() - 1)), rows)

            part_cond: Condition
            if isinstance(cond, dict):  # of a picture its tiles, never as many copies of it
                part_cond = {k: cut(v) if k == "image" else repeat(v) for k, v in cond.items()}
            else:
                part_cond = repeat(cond)
            numbers = {name: repeat(value) for name, value in extra.items()}
            pred = self.plain(cut(x_t), repeat(t), part_cond, **numbers)
            for place, raw in zip(cuts, pred.raw.chunk(len(some)), strict=True):
                total[place] += window * raw.to(total)
            if self.tick:
                self.tick(len(some))
        return Prediction(total / weight, self.kind, At(self.process, t, x_t))


def restore(
    denoiser: Denoiser,
    sampling: Sampling,
    image: Tensor,
    draws: Draws,
    *,
    least: int = 32,
    tile: int = 64,
    overlap: int = 16,
    batch: int = 16,
    tick: Callable[[int], object] | None = None,
    networks: Mapping[str, Denoiser] = NONE,
) -> Tensor:
    """Restore degraded images of any size, tile by tile.

    Borders are repeated up to the next multiple of :data:`GRID`, and up to ``least``, and cut off again.

    Arguments:
        denoiser: a restoring model, teacher or student.
        sampling: how it is sampled.
        image: degraded images in [-1, 1], already of their final size, (B, C, H, W) of any H and W.
        draws: the source of randomness, of B rows.
        least: smallest height and width that the network takes, in pixels.
        tile: side of the square tiles in pixels, divisible by :data:`GRID`.
        overlap: pixels that neighbours share, at most half a tile, divisible by :data:`GRID`.
        batch: tiles per call of the network.
        tick: called with the number of tiles of each call; None for nothing.
        networks: the model's companions by name, for samplings that name one; they work on tiles as well.

    Returns:
        The restored images in [-1, 1], (B, C, H, W).

    Raises:
        StillhouseError: for tiles that don't fit.
    """
    height, width = image.shape[-2:]
    below, right = (max(least, math.ceil(side / GRID) * GRID) - side for side in (height, width))
    cond = {"image": F.pad(image, (0, right, 0, below), mode="replicate")}

    def tiled(net: Denoiser) -> Tiled:
        return Tiled(net, tile, overlap, batch, tick)

    walked = draw_samples(
        tiled(denoiser),
        sampling,
        cond["image"].shape[1:],
        cond,
        draws,
        networks={name: tiled(net) for name, net in networks.items()},
    )
    return denoiser.process.to_data(walked, cond)[..., :height, :width].clamp(-1, 1)
