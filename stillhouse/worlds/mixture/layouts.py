"""Mixtures of known layouts, found by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.draws import seed_of
from stillhouse.core.errors import require, unknown
from stillhouse.worlds.mixture.bridged import BridgedMixture
from stillhouse.worlds.mixture.world import Mixture


def ring(modes: int = 8, radius: float = 4.0) -> Tensor:
    """Points at equal angles on a circle, the first on the positive x axis.

    Arguments:
        modes: how many.
        radius: of the circle.

    Returns:
        Centres, (modes, 2) float64.
    """
    angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


def grid(side: int = 5, spacing: float = 2.0) -> Tensor:
    """A square lattice around the origin.

    Arguments:
        side: points a row.
        spacing: between neighbours.

    Returns:
        Centres, (side^2, 2) float64.
    """
    line = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    return torch.cartesian_prod(line, line)


def moons(modes: int = 32, radius: float = 2.0) -> Tensor:
    """Two interleaved half circles of small components; the upper one comes first.

    Arguments:
        modes: components of both together, an even number.
        radius: of the half circles.

    Returns:
        Centres, (modes, 2) float64.
    """
    require(modes % 2 == 0, f"Two moons share an even number of components, not {modes}.")
    angle = torch.linspace(0, math.pi, modes // 2, dtype=torch.float64)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    return radius * torch.cat([upper, -upper])


def checkerboard(squares: int = 4, fill: int = 4, side: float = 2.0) -> Tensor:
    """The dark squares of a board, each a lattice of components.

    Arguments:
        squares: a row, and rows.
        fill: components a row in each square.
        side: of a square.

    Returns:
        Centres, (squares^2 / 2 * fill^2, 2) float64.
    """
    cells = torch.cartesian_prod(torch.arange(squares), torch.arange(squares))
    corners = (cells[cells.sum(1) % 2 == 0].double() - squares / 2) * side
    inside = (torch.arange(fill, dtype=torch.float64) + 0.5) * (side / fill)
    return (corners[:, None] + torch.cartesian_prod(inside, inside)).reshape(-1, 2)


def scattered(modes: int = 8, dim: int = 2, spread: float = 4.0, seed: int = 0) -> Tensor:
    """Normal random centres around the origin.

    Arguments:
        modes: how many.
        dim: of the space.
        spread: their standard deviation along each axis.
        seed: from which they follow.

    Returns:
        Centres, (modes, dim) float64.
    """
    generator = torch.Generator().manual_seed(seed_of("scattered", seed))
    return spread * torch.randn(modes, dim, generator=generator, dtype=torch.float64)


# the layout, its default standard deviation, and its default number of classes (None: one per component)
LAYOUTS: dict[str, tuple[Any, float, int | None]] = {
    "ring": (ring, 0.3, None),
    "grid": (grid, 0.2, None),
    "moons": (moons, 0.15, 2),
    "checkerboard": (checkerboard, 0.2, 8),
    "random": (scattered, 0.5, None),
}


def make_mixture(
    layout: str = "ring",
    *,
    std: float | Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    classes: int | None = None,
    labels: Sequence[int] | None = None,
    scale: Sequence[float] | float = 1.0,
    bridge: str = "",
    **options: Any,
) -> Mixture:
    """A mixture of a known layout.

    Arguments:
        layout: one of ``ring grid moons checkerboard random``.
        std: of all components, or one each; None for the layout's own.
        weights: of the components, relative; None for equal ones.
        classes: number of labels, given to equal blocks of neighbouring components; None for the layout's
            own.
        labels: of the components, instead of ``classes``.
        scale: stretches the centres; a list for one factor an axis.
        bridge: ``told`` or ``blind`` for a :class:`stillhouse.worlds.mixture.bridged.BridgedMixture` whose
            closed form is conditioned on the degraded point, or is not.
        options: of the layout, such as ``modes``.

    Returns:
        The world.

    Raises:
        StillhouseError: for an unknown layout or kind of bridge, and more classes than components.
    """
    if layout not in LAYOUTS:
        raise unknown("mixture layout", layout, LAYOUTS)
    place, usual_std, usual_classes = LAYOUTS[layout]
    means = place(**options) * torch.as_tensor(scale, dtype=torch.float64)
    count = len(means)
    stds = torch.as_tensor(usual_std if std is None else std, dtype=torch.float64)
    classes = classes or usual_classes or count
    require(1 <= classes <= count, f"{count} components can't make {classes} classes.")
    blocks = torch.arange(count) * classes // count
    parts = (
        means,
        stds.expand(count) if stds.dim() == 0 else stds,
        torch.ones(count) if weights is None else torch.as_tensor(weights, dtype=torch.float64),
        blocks if labels is None else torch.as_tensor(labels),
    )
    if not bridge:
        return Mixture(*parts)
    require(
        bridge in ("told", "blind"),
        f"The bridge of a mixture is 'told' (conditioned on the degraded point) or 'blind', not '{bridge}'.",
    )
    return BridgedMixture(*parts, blind=bridge == "blind")
