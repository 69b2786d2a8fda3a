"""A learned jump ``G(x_t, t -> s)``: three views of one network.

- ``s = 0``: a consistency function or a one-step generator, the denoiser's own ``x0``;
- a *DDIM jump* of a one-time network: ``alpha_s D + sigma_s eps`` (progressive, Lightning);
- a *flow map* of a two-time network, ``D`` replaced by ``g(x_t, t, s)`` (CTM, shortcut, MeanFlow kinds).

All three are one formula; a two-time network takes ``s`` as an input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.prediction import Prediction
from stillhouse.core.process import expand_to


def ddim_step(pred: Prediction, s: Tensor) -> Tensor:
    """``alpha_s x0 + sigma_s eps``: where the line of a prediction is at time ``s`` of shape (B,). This is
    one DDIM step.

    Arguments:
        pred: a prediction at B states.
        s: where to, in [0, 1], (B,).

    Returns:
        The state at ``s``, (B, …).
    """
    process, x = pred.at.process, pred.at.x
    return expand_to(process.alpha(s), x) * pred.x0 + expand_to(process.sigma(s), x) * pred.eps


def jump(
    model: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, cond: Condition = None, guidance: Tensor | None = None
) -> Tensor:
    """``G(x_t, t -> s)`` for ``t, s`` of shape (B,); the identity at ``s = t``.

    Arguments:
        model: a denoiser; one of two times is given ``s`` as an input.
        x_t: states, (B, …).
        t: their times in [0, 1], (B,).
        s: where to, in [0, 1], (B,).
        cond: the condition of the B rows; None for none.
        guidance: scales ``w``, (B,), 1 for none, for a model that takes them; None otherwise.

    Returns:
        The states at ``s``, (B, …).
    """
    pred = (
        model(x_t, t, cond, s=s, guidance=guidance)
        if model.two_time
        else model(x_t, t, cond, guidance=guidance)
    )
    return ddim_step(pred, s)


def predict_x0(
    model: Denoiser, x_t: Tensor, t: Tensor, cond: Condition = None, guidance: Tensor | None = None
) -> Tensor:
    """``G(x_t, t -> 0)``: the model's clean estimate.

    Arguments:
        model: a denoiser.
        x_t: states, (B, …).
        t: their times in [0, 1], (B,).
        cond: the condition of the B rows; None for none.
        guidance: scales ``w``, (B,), 1 for none, for a model that takes them; None otherwise.

    Returns:
        The clean estimate, (B, …).
    """
    if model.two_time:
        return model(x_t, t, cond, s=torch.zeros_like(t), guidance=guidance).x0
    return model(x_t, t, cond, guidance=guidance).x0
