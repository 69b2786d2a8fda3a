"""Where the probability-flow ODE really leads: adaptive Dormand-Prince 5(4), for exact endpoints and
references."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.process import expand_to

# Dormand & Prince, 1980: nodes, the lower triangle, and (fifth - fourth order) weights; the last row is the
# fifth-order step itself
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
TABLEAU = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
MOST_STEPS = 20_000


def _mixed(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights, slopes, strict=True) if w), torch.zeros_like(slopes[0]))


@torch.no_grad()
def endpoint(
    model: Denoiser,
    x: Tensor,
    t0: float | Tensor,
    t1: float | Tensor,
    cond: Condition = None,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    guidance: Tensor | None = None,
) -> Tensor:
    """The state at ``t1`` of the probability-flow ODE that passes ``x`` (B, …) at ``t0``; ``t1`` may lie
    above ``t0``.

    The walk is in the angle ``a = atan2(sigma, alpha)`` and ``u = x / hypot(alpha, sigma)``, where ``du/da =
    cos(a) eps - sin(a) x0`` is bounded at both ends of every process. Its step is common to the batch and
    keeps the worst sample's error (root mean square over its elements) within ``atol + rtol max|u|``. Down to
    ``sigma = 0`` it stops a hair short and lands with one DDIM step, since a data prediction does not
    determine the slope there. Without gradient. Raises :class:`StillhouseError` when the tolerance can't be
    met.

    Arguments:
        model: the denoiser whose ODE is walked.
        x: states, (B, …).
        t0: their times in [0, 1], a number or (B,).
        t1: where to, in [0, 1], a number or (B,).
        cond: the condition of the B rows; None for none.
        rtol: tolerance relative to the largest element.
        atol: absolute tolerance.
        guidance: scales ``w``, (B,), 1 for none, for a model that takes them; None otherwise.

    Returns:
        The states at ``t1``, (B, …).
    """
    require(rtol > 0 and atol > 0, f"Tolerances must be positive, not rtol {rtol}, atol {atol}.")
    process, rows = model.process, len(x)
    at = [torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(rows) for t in (t0, t1)]
    start, end = (torch.atan2(process.sigma(t), process.alpha(t)) for t in at)
    hair = 1e-6 if x.dtype == torch.float64 else 1e-4
    stop = torch.where(end < start, end.clamp_min(hair).minimum(start), end)

    def slope(part: float, u: Tensor) -> Tensor:
        angle = start + part * (stop - start)
        t = process.time(angle.cos().clamp_min(0).log() - angle.sin().log())
        pred = model(
            u * expand_to(torch.hypot(process.alpha(t), process.sigma(t)), u), t, cond, guidance=guidance
        )
        return expand_to(stop - start, u) * (
            expand_to(angle.cos(), u) * pred.eps - expand_to(angle.sin(), u) * pred.x0
        )

    def size(v: Tensor) -> Tensor:
        return v.reshape(rows, -1).double().square().mean(1).sqrt()

    u = x / expand_to(torch.hypot(process.alpha(at[0]), process.sigma(at[0])), x)
    here, step, first = 0.0, 0.01, slope(0.0, u)
    for _ in range(MOST_STEPS):
        step = min(step, 1 - here)
        slopes, ahead = [first], u
        for node, row in zip(NODES[1:], TABLEAU[1:], strict=True):
            ahead = u + step * _mixed(row, slopes)
            slopes.append(slope(here + node * step, ahead))
        wrong = size(step * _mixed(ERROR, slopes)) / (atol + rtol * torch.maximum(size(u), size(ahead)))
        worst = float(wrong.max())
        if worst <= 1:  # a NaN is refused, too
            u, first, here = ahead, slopes[-1], here + step
            if 1 - here < 1e-14:
                break
        step *= min(5.0, max(0.2, 0.9 * max(worst, 1e-10) ** -0.2)) if worst == worst else 0.2
        if step < 1e-13:
            break
    if 1 - here >= 1e-14:
        raise StillhouseError(
            f"The ODE can't be followed to rtol {rtol}, atol {atol}: stuck after {here:.3g} of the way; "
            "loosen them."
        )
    # the last hair: a DDIM step is a rotation in this coordinate (none where stop = end); `first` is the
    # slope over the whole way
    per_angle = first / expand_to(torch.where(stop == start, torch.ones_like(stop), stop - start), u)
    u = expand_to((end - stop).cos(), u) * u + expand_to((end - stop).sin(), u) * per_angle
    return u * expand_to(torch.hypot(process.alpha(at[1]), process.sigma(at[1])), u)
