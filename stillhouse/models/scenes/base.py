"""What every scene is: a network that ignores its state and renders what its condition names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.errors import require
from stillhouse.models.scenes.camera import Lens
from stillhouse.models.taps import Network

FRONT = (4.0, 0.0, 0.0)  # where the camera stands by default


@dataclass
class Rendering:
    """What cameras see. ``rgb`` (B, 3, H, W) in [-1, 1]; ``opacity`` (B, H, W) in [0, 1]; ``depth`` (B, H,
    W), the mean of what is hit."""

    rgb: Tensor
    opacity: Tensor
    depth: Tensor


class Scene(Network):
    """``net(x, t, cond)``: a view, whatever the state ``x`` and the time. A batch of ``scenes`` independent
    ones at once.

    ``cond``: None, or a dict of which ``features`` (B, 3) are the places of the cameras
    (:mod:`stillhouse.models.scenes.camera`), by default the front, and ``scene`` (B,) the number of the scene
    that each row shows, by default the first.
    """

    scenes: int
    lens: Lens

    def scene_and_camera(self, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """Read a condition.

        Arguments:
            x: states, (B, *shape), whose number and device count.
            cond: None, or a dict, see :class:`Scene`.

        Returns:
            Numbers of the scenes (B,) int64, and places of the cameras (B, 3); raises
            :class:`StillhouseError` for places of another shape, and numbers of no scene.
        """
        pred = cond if isinstance(cond, dict) else {}
        which = pred.get("scene", torch.zeros(len(x), dtype=torch.long, device=x.device))
        place = pred.get("features", x.new_tensor(FRONT).expand(len(x), 3))
        require(
            place.shape == (len(x), 3),
            f"The places of cameras have the shape {(len(x), 3)} for these rows, not {tuple(place.shape)}.",
        )
        # a branch on data, which has no meaning on tensors without values
        if not which.is_meta:
            low, high = int(which.min()), int(which.max())
            require(
                0 <= low and high < self.scenes,
                f"Scenes have the numbers 0 … {self.scenes - 1}, not {low if low < 0 else high}.",
            )
        return which, place.to(x)


class Rendered(Scene):
    """A scene whose views are square colour pictures."""

    def render(self, which: Tensor, place: Tensor, side: int) -> Rendering:
        """The views of scenes, differentiable in their parameters.

        Arguments:
            which: numbers of the scenes, (B,) int64.
            place: where the cameras stand, (B, 3).
            side: of the pictures, in pixels.

        Returns:
            B views.
        """
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Any = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """``x``: (B, 3, side, side), whose size alone counts -> the views, of the same shape."""
        square = x.dim() == 4 and x.shape[1] == 3 and x.shape[2] == x.shape[3]
        require(
            square,
            f"A {self.name} scene is seen as square colour pictures (3, side, side), not as "
            f"{tuple(x.shape[1:])}.",
        )
        return self.render(
            *self.scene_and_camera(x.to(torch.promote_types(x.dtype, torch.float32)), cond), x.shape[-1]
        ).rgb.to(x.dtype)


def over(rgb: Tensor, opacity: Tensor, background: float) -> Tensor:
    """Colours before a grey background, as a picture.

    Arguments:
        rgb: colours in [0, 1], already weighted by ``opacity``, (B, 3, …).
        opacity: in [0, 1], (B, …).
        background: grey in [-1, 1].

    Returns:
        Pictures in [-1, 1], (B, 3, …).
    """
    return 2 * rgb - opacity[:, None] + (1 - opacity)[:, None] * background


def passing(alpha: Tensor, dim: int) -> Tensor:
    """The light that reaches each of a row of things, nearest first: ``prod_(j < i) (1 - alpha_j)``.

    Arguments:
        alpha: opacities in [0, 1], of any shape.
        dim: along which the things stand in a row.

    Returns:
        Shares of the light in [0, 1], of the same shape.
    """
    clear = torch.log1p(-alpha.clamp(max=1 - 1e-5)).cumsum(dim)
    return (
        clear.roll(1, dim).index_fill(dim, torch.zeros(1, dtype=torch.long, device=alpha.device), 0.0).exp()
    )
