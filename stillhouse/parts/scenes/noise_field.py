"""Noise that lives on an object: what two cameras see of one place of it is the same noise, and each picture
is white all the same.

Yan et al., 2025 (arXiv 2501.05445, section 4.3). A field belongs to the scenes of one network, keeps noise
for each of them, and shows it as they are rendered: ``field(which, place, seen)``. Every number is standard
normal; one walk of a scene keeps one field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stillhouse.core.draws import seed_of
from stillhouse.core.errors import require
from stillhouse.models.scenes import Plain, Points, Rendering, Scene
from stillhouse.models.scenes.base import Rendered
from stillhouse.models.scenes.camera import Lens, pixel_corners
from stillhouse.models.scenes.points import flat

HIT = 0.1  # opacity from which a pixel shows the object
WINDOW = 8  # texels to each side that one pixel may cover; of a larger one, seen edge-on, a part is counted
POLE = 1.3  # the larger coordinate on a chart (up to sqrt 2) from which neighbours may lie far apart


class NoiseField(nn.Module):
    """Noise (scenes, …) that refreshing keeps standard normal. Made with torch's own generator, as first
    weights are.

    ``step``: the iteration up to which it was refreshed; kept with it, so that a run that goes on refreshes
    nothing twice. ``key``: a number of its own, from which :func:`fixed_per_camera` makes the cameras'
    noises.
    """

    noise: Tensor
    step: Tensor
    key: Tensor

    def __init__(self, scenes: int, *size: int):
        super().__init__()
        self.register_buffer("noise", nn.init.normal_(torch.empty(scenes, *size)))
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("key", torch.randint(2**62, ()))

    def forward(self, which: Tensor, place: Tensor, seen: Rendering | None) -> Tensor:
        """The noise on what cameras see.

        Arguments:
            which: the number of the scene that each row shows, (B,).
            place: the place of its camera, (B, 3).
            seen: how the scenes were rendered from there; None for those that are not rendered.

        Returns:
            Standard normal noise, (B, *shape) or flattened to (B, numbers).
        """
        raise NotImplementedError

    def refresh(self, step: int, gamma: float, generator: torch.Generator) -> None:
        """``sqrt(1 - gamma) noise + sqrt(gamma) z``, once an iteration: the noise of the clean-flow ODE
        becomes that of its SDE.

        Arguments:
            step: the run's iteration; nothing is done for one that has been refreshed already.
            gamma: share of the variance that is drawn anew, in [0, 1]; 0: nothing is.
            generator: on the noise's device.
        """
        if gamma and step > int(self.step):
            for noise in (buffer for buffer in self.buffers() if buffer.is_floating_point()):
                fresh = torch.randn(noise.shape, generator=generator, device=noise.device, dtype=noise.dtype)
                noise.mul_(math.sqrt(1 - gamma)).add_(fresh, alpha=math.sqrt(gamma))
        self.step.fill_(step)


class PlainField(NoiseField):
    """For samples that are their own scenes: one noise each."""

    def forward(self, which: Tensor, place: Tensor, seen: Rendering | None) -> Tensor:
        return self.noise[which]


class PointField(NoiseField):
    """For points: a vector in space on each, which a camera sees as it sees the point.

    The rows of an orthographic camera are orthonormal, so that a view of the vector is standard normal; and
    the clean flow of a view is the view of a flow in space.
    """

    def forward(self, which: Tensor, place: Tensor, seen: Rendering | None) -> Tensor:
        return flat(place, self.noise[which]).flatten(1)


class SurfaceField(NoiseField):
    """For surfaces around the origin: texels on two hemispheres of directions, and one picture of noise
    behind.

    A pixel shows ``sum of its texels / sqrt(their number)``, its texels being those between the directions of
    its corners' places on the surface: each texel belongs to one pixel at most, so that pixels are
    independent. The charts preserve area, so that all texels cover equal parts of the sphere. ``texels``:
    along the side of a hemisphere's chart, twice the picture's unless given.
    """

    behind: Tensor

    def __init__(self, scenes: int, lens: Lens, shape: Sequence[int], texels: int = 0):
        channels, side, _ = shape
        texels = texels or 2 * side
        super().__init__(scenes, 2, texels * texels, channels)
        self.register_buffer("behind", nn.init.normal_(torch.empty(scenes, *shape)))
        self.lens, self.side, self.texels = lens, side, texels

    def forward(self, which: Tensor, place: Tensor, seen: Rendering | None) -> Tensor:
        assert seen is not None
        hit = (seen.opacity > HIT).flatten(1)
        corners, shown = self._corners(place, seen, hit), self.behind[which].flatten(2).mT.clone()
        total, count = torch.zeros_like(shown), torch.zeros_like(shown[..., 0])
        for half in (0, 1):
            quad = chart(corners, flip=half == 1)
            # far out on a chart neighbours lie far apart; what is there is near the pole of the other one
            near = hit & (quad.abs() < POLE).all((-2, -1)) & (quad.abs().amin(-2) < 1).all(-1)
            row, pixel = near.nonzero(as_tuple=True)
            inside, texel = self._covered(quad[row, pixel])
            found = self.noise[which[row][:, None], half, texel] * inside[..., None]
            total.index_put_((row, pixel), found.sum(1), accumulate=True)
            count.index_put_((row, pixel), inside.sum(1).to(count), accumulate=True)
        on = total / count.clamp_min(1).sqrt()[..., None]
        shown = torch.where((count > 0)[..., None], on, shown)
        return shown.mT.reshape(len(which), -1, self.side, self.side)

    def _corners(self, place: Tensor, seen: Rendering, hit: Tensor) -> Tensor:
        """Where the corners of the pixels lie on the surface, (B, side^2, 4, 3), in the order around each
        pixel.

        The depth of a corner is the mean over the pixels around it that show the object.
        """
        side, rows = self.side, len(place)
        weight = nn.functional.pad(hit.reshape(seen.depth.shape).to(seen.depth), (1, 1, 1, 1))
        depth = weight * nn.functional.pad(seen.depth, (1, 1, 1, 1))
        around = [(slice(a, a + side + 1), slice(b, b + side + 1)) for a in (0, 1) for b in (0, 1)]
        number = torch.stack([weight[:, r, c] for r, c in around]).sum(0)
        mean = torch.stack([depth[:, r, c] for r, c in around]).sum(0) / number.clamp_min(1)
        mean = torch.where(number > 0, mean, place.norm(dim=1)[:, None, None])
        points = self.lens.point(place, pixel_corners(side, place), mean.flatten(1)).reshape(
            rows, side + 1, side + 1, 3
        )
        four = [points[:, :-1, :-1], points[:, :-1, 1:], points[:, 1:, 1:], points[:, 1:, :-1]]
        return torch.stack([p.flatten(1, 2) for p in four], 2)

    def _covered(self, quad: Tensor) -> tuple[Tensor, Tensor]:
        """Which texels of a window (N, W^2) lie in the four-sided ``quad`` (N, 4, 2) on the chart, and their
        numbers."""
        scaled = (quad + 1) * (self.texels / 2) - 0.5  # texel centres at whole numbers
        line = torch.arange(WINDOW, device=quad.device, dtype=quad.dtype)
        texel = scaled.amin(1, keepdim=True).ceil().clamp_min(0) + torch.cartesian_prod(line, line)
        exists = (texel < self.texels).all(-1)
        a, b, c, d = scaled[:, None].unbind(-2)
        index = texel.clamp_max(self.texels - 1).long()
        return (_within(texel, a, b, c) ^ _within(texel, a, c, d)) & exists, index[
            ..., 0
        ] * self.texels + index[..., 1]


def chart(points: Tensor, flip: bool = False) -> Tensor:
    """Directions on the plane, area-preserving: the upper hemisphere becomes the square from -1 to 1.

    ``d = sqrt(1 - cos theta)`` is the distance from the pole in the larger coordinate; the other one runs
    evenly in the azimuth through each sector of 90 degrees. Beyond the equator it goes on, up to ``d = sqrt
    2``.

    Arguments:
        points: in space, (…, 3), of any length above 0.
        flip: around the lower pole.

    Returns:
        Places on the chart, (…, 2).
    """
    x, y, z = nn.functional.normalize(points, dim=-1).unbind(-1)
    z = -z if flip else z
    d = (1 - z).clamp_min(0).sqrt()
    wide = x.abs() >= y.abs()
    # within a sector the angle from its middle, as a share of 45 degrees
    along = torch.atan(torch.where(wide, y / _apart(x), x / _apart(y))) * (4 / math.pi)
    far = torch.where(torch.where(wide, x, y) < 0, -d, d)
    return torch.stack([torch.where(wide, far, along * far), torch.where(wide, along * far, far)], -1)


def _apart(x: Tensor) -> Tensor:
    """``x`` kept away from 0."""
    return torch.where(x.abs() < 1e-12, torch.full_like(x, 1e-12), x)


def _within(p: Tensor, *triangle: Tensor) -> Tensor:
    """Whether ``p`` lies in a triangle of either orientation."""
    sides = [_left(p, a, b) for a, b in zip(triangle, triangle[1:] + triangle[:1], strict=True)]
    return (sides[0] == sides[1]) & (sides[1] == sides[2])


def _left(p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Whether ``p`` is to the left of the line from ``a`` to ``b``."""
    return (b[..., 0] - a[..., 0]) * (p[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
        p[..., 0] - a[..., 0]
    ) > 0


def field_for(scene: Scene, shape: Sequence[int]) -> NoiseField:
    """The field that belongs to the scenes of a network.

    Arguments:
        scene: the network.
        shape: of one sample; pictures (C, side, side) for a scene that is rendered, else raises
            :class:`StillhouseError`.

    Returns:
        A new field, with noise for each of the network's scenes.
    """
    if isinstance(scene, Points):
        return PointField(scene.scenes, *scene.centre.shape[1:])
    if isinstance(scene, Rendered):
        require(
            len(shape) == 3,
            f"A {scene.name} scene is seen as pictures (C, side, side), not as samples of shape "
            f"{tuple(shape)}.",
        )
        return SurfaceField(scene.scenes, scene.lens, shape)
    assert isinstance(scene, Plain)
    return PlainField(scene.scenes, *shape)


def fixed_per_camera(key: int, scenes: int, which: Tensor, place: Tensor, shape: Sequence[int]) -> Tensor:
    """Noise that a camera always sees of a scene, and that is independent of what any other camera sees.

    Arguments:
        key: the run's own number, see :class:`NoiseField`.
        scenes: how many scenes the network has.
        which: the number of the scene that each row shows, (B,).
        place: the place of its camera, (B, 3).
        shape: of one sample.

    Returns:
        Standard normal noise, (B, *shape).
    """
    cameras, number = torch.unique(place, dim=0, return_inverse=True)
    made = torch.empty(len(place), *shape, device=place.device, dtype=place.dtype)
    for i, camera in enumerate(cameras.tolist()):
        rows, generator = number == i, torch.Generator().manual_seed(seed_of(key, camera))
        made[rows] = torch.randn(scenes, *shape, generator=generator).to(made)[which[rows]]
    return made
