"""Where a student's walk begins: at pure noise, of which a network that predicts the noise makes no picture.

``x0 = (x_t - sigma eps) / alpha`` is 0 / 0 at ``alpha = 0``, and near it multiplies every error by ``sigma /
alpha``.
"""

from __future__ import annotations

import logging
import math

import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.prediction import Bounded, Eps, Kind, Score

log = logging.getLogger("stillhouse")

# sigma / alpha above which a time counts as pure noise; plain DDPM tables, from whose last step published
# students start, end at 157
PURE = 1e3
# sigma / alpha of the last step of Stable Diffusion's table, the noisiest that published one-step students of
# noise networks commonly start from (DMD, DMD2, SwiftBrush: step 999)
NOISIEST = 14.6


def predicts_noise(kind: Kind) -> bool:
    """Whether a clean estimate of this kind is divided by ``alpha``."""
    return isinstance(kind, Eps | Score) or (isinstance(kind, Bounded) and kind.inner in ("eps", "score"))


def is_pure_noise(student: Denoiser, time: float) -> bool:
    """Whether a student can make no picture of a state, because it predicts the noise.

    Arguments:
        student: whose process and kind of prediction count.
        time: of the state, in [0, 1].

    Returns:
        True for a network of noise where ``sigma / alpha`` is above a thousand.
    """
    t = torch.tensor([time], dtype=torch.float64)
    return predicts_noise(student.kind) and float(student.process.log_snr(t)) < -math.log(PURE)


def first_time_of(student: Denoiser, asked: float, who: str) -> float:
    """The time of a student's first call: the one that was asked for, or, where that is pure noise to it, the
    time at which ``sigma / alpha`` is that of Stable Diffusion's last step.

    Arguments:
        student: whose process and kind of prediction count.
        asked: in (0, 1].
        who: whose option it is, for the line that names the change.

    Returns:
        The time, in (0, 1], a step of the table where the process is one.
    """
    if not is_pure_noise(student, asked):
        return asked
    process = student.process
    time = float(process.on_table(process.time(torch.tensor([-math.log(NOISIEST)], dtype=torch.float64))))
    log.warning(
        "%s: pure noise holds no clean image for a network that predicts the noise; the first call is at "
        "time "
        "%.4g instead of %g.",
        who,
        time,
        asked,
    )
    return time


def require_clean_start(
    student: Denoiser,
    time: float = 1.0,
    *,
    one_step: bool = False,
    advice: str = "use a velocity, v or x0 network",
) -> None:
    """Refuse a student that predicts the noise where it would start from pure noise, which holds no clean
    image.

    Arguments:
        student: whose clean estimate at ``time`` is needed.
        time: of its first call, in (0, 1].
        one_step: refuse it also where the schedule leaves some signal there: one step from there divides the
            prediction by next to nothing.
        advice: what to do instead, the end of the error's sentence.
    """
    require(
        not is_pure_noise(student, time) and not (one_step and predicts_noise(student.kind)),
        f"Pure noise holds no clean image, so a student that predicts the noise can't start there; {advice}.",
    )
