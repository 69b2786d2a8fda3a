"""A scene of coloured 3-D Gaussians, splatted front to back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse.core.errors import require
from stillhouse.models.scenes.base import Rendered, Rendering, over, passing
from stillhouse.models.scenes.camera import Lens, pixel_centres

BLUR = 0.3  # variance in pixels^2 that is added to every splat, so that none is lost between pixels
TRUST = 0.01  # opacity below which a depth means nothing


class Gaussians(Rendered):
    """Anisotropic Gaussians: centres, rotations, log sizes, colours and opacities (Kerbl et al., 2023, arXiv
    2308.04079).

    They start spread evenly through a ball, each as wide as its neighbours are apart, grey and thin.

    Arguments:
        scenes: how many, at least 1.
        count: Gaussians a scene, at least 1.
        reach: radius of the ball.
        extent: of the lens.
        pinhole: lens; else orthographic.
        background: grey behind the scene, in [-1, 1].
    """

    name = "gaussians"

    def __init__(
        self,
        scenes: int = 1,
        count: int = 128,
        reach: float = 0.8,
        extent: float = 1.0,
        pinhole: bool = True,
        background: float = 1.0,
    ):
        super().__init__(locals())
        require(
            scenes >= 1 and count >= 1,
            f"A scene holds at least one Gaussian, and there is at least one: not {count} in {scenes}.",
        )
        self.scenes, self.lens, self.background = scenes, Lens(extent, pinhole), background
        direction = F.normalize(torch.randn(scenes, count, 3), dim=-1)
        self.centre = nn.Parameter(direction * reach * torch.rand(scenes, count, 1) ** (1 / 3))
        self.size = nn.Parameter(torch.full((scenes, count, 3), 0.7 * reach * count ** (-1 / 3)).log())
        self.turn = nn.Parameter(F.normalize(torch.randn(scenes, count, 4), dim=-1))
        self.colour = nn.Parameter(0.1 * torch.randn(scenes, count, 3))
        self.opacity = nn.Parameter(torch.full((scenes, count), -1.5))

    def render(self, which: Tensor, place: Tensor, side: int) -> Rendering:
        centre, slope = self.centre[which], self.lens.slope(place, self.centre[which])
        at, depth = self.lens.see(place, centre)
        spread = slope @ (rotations(self.turn[which]) * self.size[which].exp()[..., None, :])
        a, b, c = _symmetric(spread, BLUR * (2 / side) ** 2)
        away = pixel_centres(side, place) - at[:, :, None]
        x, y = away.unbind(-1)
        square = (c[..., None] * x**2 - 2 * b[..., None] * x * y + a[..., None] * y**2) / (a * c - b**2)[
            ..., None
        ]
        alpha = torch.sigmoid(self.opacity[which])[..., None] * torch.exp(-0.5 * square)
        alpha = alpha * (depth > 0)[..., None]
        order = depth.argsort(1)
        alpha = alpha.gather(1, order[..., None].expand_as(alpha))
        weight = alpha * passing(alpha, 1)
        colour = torch.sigmoid(self.colour[which]).gather(1, order[..., None].expand_as(centre))
        far = depth.gather(1, order)
        opacity, rgb = weight.sum(1), torch.einsum("bgp,bgc->bcp", weight, colour)
        mean = torch.einsum("bgp,bg->bp", weight, far) / opacity.clamp_min(TRUST)
        rows = len(which)
        picture = over(rgb, opacity, self.background).reshape(rows, 3, side, side)
        return Rendering(picture, opacity.reshape(rows, side, side), mean.reshape(rows, side, side))


def _symmetric(root: Tensor, more: float) -> tuple[Tensor, Tensor, Tensor]:
    """The entries ``a, b, c`` of ``root root^T + more I = [[a, b], [b, c]]`` for ``root`` (…, 2, 3)."""
    x, y = root.unbind(-2)
    return (x * x).sum(-1) + more, (x * y).sum(-1), (y * y).sum(-1) + more


def rotations(quaternions: Tensor) -> Tensor:
    """Rotation matrices (…, 3, 3) of quaternions ``w, x, y, z`` (…, 4) of any length."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
