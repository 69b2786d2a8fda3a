"""What all score distillation of scenes shares: views of a scene under noise, and the step that follows from
a denoiser's prediction.

A view ``x`` is noised to ``x_t = alpha x + sigma eps``, and goes down ``w(t) (eps_A - eps_B)``
(:func:`stillhouse.parts.gaps.score.sds_gradient`): ``eps_A`` is the teacher's, guided. The systems differ in
the rest of it:

- SDS (Poole et al., 2022, arXiv 2209.14988): fresh noise, random times, ``eps_B = eps``, ``w = sigma^2``.
- VSD (Wang et al., 2023, arXiv 2305.16213): the same, but ``eps_B`` comes from the score of the scene's own
  views (``fake``).
- CFD (Yan et al., 2025, arXiv 2501.05445): noise that is fixed on the object, falling times, ``eps_B = eps``,
  ``w = sigma / alpha``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.prediction import At
from stillhouse.core.process import expand_to


def falling(share: float, high: float, low: float) -> float:
    """The annealed time: a line from ``high`` to ``low``.

    Arguments:
        share: of the run that is over, in [0, 1].
        high: time at the start, in [0, 1].
        low: time at the end.

    Returns:
        The time.
    """
    return high + (low - high) * share


def clean_flow(
    model: Denoiser,
    eps: Tensor,
    grid: Sequence[float],
    cond: Condition = None,
    *,
    gamma: float = 0.0,
    draws: Draws | None = None,
) -> Tensor:
    """Euler's method on the clean-flow ODE ``dy/dL = eps_model(alpha (y + L eps), t) - eps`` with ``L = sigma
    / alpha``, from ``y = 0``.

    ``y = x_t / alpha - L eps`` is the walk of DDIM without its noise, and looks like data all along (Yan et
    al., 2025, equation 8 and appendix).

    Arguments:
        model: the teacher.
        eps: the noise of the walk, (B, *shape), the same at all times.
        grid: falling times; ``alpha > 0`` at the first.
        cond: the condition of the B rows; None for none.
        gamma: above 0, before each step the time goes up to ``t (1 + gamma)`` and the noise is refreshed to
            match (the clean-flow SDE).
        draws: the source of randomness; needed where ``gamma`` is above 0.

    Returns:
        ``y`` at the end of the grid, (B, *shape).
    """
    times = torch.as_tensor(grid, dtype=torch.float64, device=eps.device)
    y = torch.zeros_like(eps)
    for now, then in zip(times[:-1], times[1:], strict=True):
        t, s = now.expand(len(y)), then.expand(len(y))
        if gamma:
            assert draws is not None, "the clean-flow SDE draws noise"
            up = (t * (1 + gamma)).clamp_max(1 - 1e-6)
            kept = expand_to(model.process.ratio(t) / model.process.ratio(up), y)
            eps, t = kept * eps + (1 - kept**2).clamp_min(0).sqrt() * draws.normal_like(y), up
        pred = model(model.process.noise(y, t, eps), t, cond)
        end = At(model.process, s, y)
        y = y + (end.sigma / end.alpha - pred.at.sigma / pred.at.alpha) * (pred.eps - eps)
    return y
