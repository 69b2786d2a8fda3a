"""The coordinate that every solver steps in: half log-SNR, whose distance ``h`` is infinite where alpha or
sigma is 0.

With ``y = x / alpha`` and ``r = sigma / alpha`` a step of data-prediction form is ``y_s = e^-h y + (1 - e^-h)
D`` for every process. Here it is written in (alpha, sigma), where it is finite at both ends of time:
:func:`stillhouse.core.flowmap.ddim_step` plus ``alpha_s (1 - e^-h)`` times what a higher order adds to ``D``.
"""

from __future__ import annotations

from torch import Tensor

from stillhouse.core.prediction import Prediction
from stillhouse.core.process import Process, expand_to


def gap(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """``h = lambda_s - lambda_t > 0`` for ``s < t`` of shape (B,); inf from ``alpha_t = 0`` and to ``sigma_s
    = 0``.

    Arguments:
        process: the process of the walk.
        t: times in [0, 1], (B,).
        s: earlier times, (B,).

    Returns:
        Differences of half log-SNR, (B,).
    """
    return process.log_snr(s) - process.log_snr(t)


def noisy_ddim_step(pred: Prediction, s: Tensor, std: Tensor) -> Tensor:
    """``alpha_s x0 + sqrt(sigma_s^2 - std^2) eps``: where a step that then adds noise of ``std`` (B,) has its
    mean.

    ``std = 0`` is DDIM; the state at ``s`` keeps its marginal whatever ``std <= sigma_s`` is (Song et al.,
    2020, arXiv 2010.02502, eq. 12).

    Arguments:
        pred: a prediction at B states.
        s: where to, in [0, 1], (B,).
        std: standard deviation of the noise that is added then, (B,), at most ``sigma_s``.

    Returns:
        The mean of the step, (B, …).
    """
    process, x = pred.at.process, pred.at.x
    kept = (process.sigma(s) ** 2 - std**2).clamp_min(0).sqrt()
    return expand_to(process.alpha(s), x) * pred.x0 + expand_to(kept, x) * pred.eps
