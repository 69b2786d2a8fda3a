"""Teacher pairs: noise and where the teacher's own ODE carries it."""

from __future__ import annotations

from torch import Tensor

from stillhouse.core.conditions import Condition, flattened
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.samplers.rollout import rollout
from stillhouse.solvers.grids import uniform
from stillhouse.solvers.heun import Heun
from stillhouse.solvers.rk45 import endpoint


def teacher_pairs(
    teacher: Denoiser, shape: tuple[int, ...], draws: Draws, cond: Condition, steps: int = 0
) -> dict[str, Tensor]:
    """Noise, and the sample where the teacher's ODE from it ends.

    Arguments:
        teacher: the denoiser whose ODE is solved.
        shape: of one sample.
        draws: the source of randomness.
        cond: the condition of the draws' rows; None for none.
        steps: Heun steps on the uniform grid; 0: adaptive RK45 at a tolerance of 1e-5.

    Returns:
        ``eps``, standard normal noise, (rows, *shape), of which the walk starts at ``eps * prior_std``;
        ``x``, its end, (rows, *shape); and the condition, flattened to tensors of a bank, if there is one.
    """
    eps = draws.normal(*shape)
    start = eps * teacher.process.prior_std
    if steps:
        x = rollout(teacher, start, uniform(steps), Heun(), cond)
    else:
        x = endpoint(teacher, start, 1.0, 0.0, cond, rtol=1e-5, atol=1e-5)
    return {"eps": eps, "x": x, **flattened(cond)}
