"""Pieces of losses that several papers share, written out a second time for the oracles: plain formulas over
networks and schedules, nothing of ``stillhouse.parts``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stillhouse.core.conditions import Condition
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, ScaledLinearVP
from tests.systems.oracle import Given

Clean = Callable[[Tensor, Tensor], Tensor]  # the clean estimate of states (B, …) at times (B,)

# of points, a mean over the batch
DISTANCES = {
    "l2": lambda a, b: (a - b).square().mean(),
    "l1": lambda a, b: (a - b).abs().mean(),
    "huber": lambda a, b: (((a - b).square().sum(1) + 2 * 0.00054**2).sqrt() - 0.00054 * 2**0.5).mean(),
}


def along(given: Given, shares: Tensor) -> Tensor:
    """Shares of the way from ``t_min`` to 1."""
    return given.process.t_min + (1 - given.process.t_min) * shares


def between(given: Given, low: float, high: float, shares: Tensor) -> Tensor:
    """Times from numbers in [0, 1), between two shares of the way from ``t_min`` to 1; of a table its steps,
    the next ones up."""
    return steps_up(given, along(given, low + (high - low) * shares))


def steps_up(given: Given, t: Tensor) -> Tensor:
    """Times of a table's steps, step ``i`` of ``n`` being at ``(i + 1) / n``; elsewhere the times as they
    are."""
    table = given.process
    return (t * table.steps).ceil().clamp_min(1) / table.steps if isinstance(table, ScaledLinearVP) else t


def placed(given: Given, t: Tensor) -> Tensor:
    """Times at which the teacher was trained: on a table of 1000 steps the next one up, of the clean end
    itself."""
    if isinstance(given.process, ScaledLinearVP):
        return (1000 * t - 1e-3).ceil().clamp_min(0) / 1000
    return t


def published(given: Given, shares: Tensor) -> Tensor:
    """Times of steps such as "250 of 1000". A table counts from 0, and its row 0 lies at ``1 / 1000``."""
    low = given.process.t_min
    return shares + 1 / 1000 if isinstance(given.process, ScaledLinearVP) else shares.clamp_min(low)


def falling(given: Given, first: float, steps: int) -> list[float]:
    """Times of ``steps`` calls from ``first``, evenly spaced towards ``t_min``."""
    last = given.process.t_min
    return [last + (first - last) * (steps - k) / steps for k in range(steps)]


def over(coefficient: Tensor, x: Tensor) -> Tensor:
    """A number a row, to multiply ``x``."""
    return coefficient.reshape(-1, *[1] * (x.dim() - 1))


def levels(given: Given, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``alpha`` and ``sigma`` at times (B,), to multiply ``x``."""
    return given.process.alpha(over(t, x)).double(), given.process.sigma(over(t, x)).double()


def preserving(given: Given, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`levels` of the variance-preserving process of equal signal-to-noise."""
    alpha, sigma = levels(given, t, x)
    return alpha / (alpha**2 + sigma**2).sqrt(), sigma / (alpha**2 + sigma**2).sqrt()


def simulated(given: Given, times: Sequence[float], own: Draws, std: float | None = None) -> Tensor:
    """The student's samples: from noise of the first time's level (or of deviation ``std``) down to the last
    of ``times`` without gradient, by noising its own clean estimate afresh; the last call with gradient."""
    level = given.process.sigma(given.at(times[0])[0]) if std is None else std
    x_t = level * own.normal(*given.shape)
    for t, s in zip(times[:-1], times[1:], strict=True):
        with torch.no_grad():
            x = given.student(x_t, given.at(t), given.cond).x0
            x_t = given.noise(x, given.at(s), own.normal(*given.shape))
    return given.student(x_t, given.at(times[-1]), given.cond).x0


def ddim(given: Given, x: Tensor, t: Tensor, s: Tensor, clean: Tensor) -> Tensor:
    """``Phi(x, t -> s; D) = alpha_s D + sigma_s (x - alpha_t D) / sigma_t``, at times (B,)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(given, t, x), levels(given, s, x)
    return alpha_s * clean + sigma_s * (x - alpha_t * clean) / sigma_t.clamp_min(1e-30)


def ddim_walk(given: Given, clean: Clean, x: Tensor, times: Sequence[float]) -> Tensor:
    """DDIM steps along ``times``."""
    for t, s in zip(times, times[1:], strict=False):
        x = ddim(given, x, given.at(t), given.at(s), clean(x, given.at(t)))
    return x


def heun(given: Given, clean: Clean, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Heun's step, ``clean(x, t)`` being the denoiser: EDM's, of ``dx / dsigma``, where the signal never
    fades; elsewhere that of the flow ``z = x / (alpha + sigma)`` at its time ``sigma / (alpha + sigma)``. To
    the clean end it is Euler's."""
    k = 0 if isinstance(given.process, VE) else 1
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(given, t, x), levels(given, s, x)
    size_t, size_s = alpha_t + k * sigma_t, alpha_s + k * sigma_s
    h = sigma_s / size_s - sigma_t / size_t

    def slope(x: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        d = clean(x, t)
        return (x - alpha * d) / sigma - k * d

    first = slope(x, t, alpha_t, sigma_t)
    euler = size_s * (x / size_t + h * first)
    both = (first + slope(euler, s, alpha_s, sigma_s)) / 2
    return torch.where(sigma_s > 0, size_s * (x / size_t + h * both), euler)


def heun_walk(given: Given, clean: Clean, x: Tensor, times: Sequence[float]) -> Tensor:
    """Heun's steps along ``times``."""
    for t, s in zip(times, times[1:], strict=False):
        x = heun(given, clean, x, given.at(t), given.at(s))
    return x


def guided_pairs(given: Given, own: Draws, steps: int) -> dict[str, Tensor]:
    """Noise, and where even Heun's steps of the guided teacher carry it."""
    eps, w = own.normal(*given.shape), given.options["guidance"]
    start = given.process.sigma(given.at(1.0)[0]) * eps
    times = [1 - k / steps for k in range(steps + 1)]
    x = heun_walk(given, lambda x, t: given.guided(given.teacher, x, t, w), start, times)
    return {"eps": eps, "x": x, "cond": given.cond}


def halved(
    given: Given,
    clean: Clean,
    x_t: Tensor,
    t: Tensor,
    middle: Tensor,
    s: Tensor,
) -> Tensor:
    """The ``x_0`` from which one DDIM step lands where two of ``clean(x, t)`` do: ``(x_s - (sigma_s /
    sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)``."""
    first = clean(x_t, t)
    x_middle = ddim(given, x_t, t, middle, first)
    x_s = ddim(given, x_middle, middle, s, clean(x_middle, middle))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(given, t, x_t), levels(given, s, x_t)
    return (x_s - sigma_s / sigma_t * x_t) / (alpha_s - sigma_s / sigma_t * alpha_t)


def clean_weight(given: Given, t: Tensor, name: str) -> Tensor:
    """Of a clean estimate's squared error, (B,): ``max(snr, 1)``, ``snr + 1`` or 1, the signal-to-noise ratio
    kept to ``exp(6)``, about 400."""
    alpha, sigma = levels(given, t, t)
    snr = (alpha / sigma.clamp_min(1e-30)).square().clamp(max=math.exp(6))
    return {"truncated_snr": snr.clamp_min(1), "snr_plus_one": snr + 1, "one": torch.ones_like(snr)}[name]


def pulled(x: Tensor, g: Tensor) -> Tensor:
    """A scalar whose gradient at ``x`` is ``g`` over the number of elements."""
    return 0.5 * (x - (x - g).detach()).square().mean()


def once(given: Given, eps: Tensor, cond: Condition) -> Tensor:
    """The one-step student's samples, from noise of its first time's level."""
    t = given.at(given.options["first_time"])
    return given.student(given.process.sigma(t)[0] * eps, t, cond).x0


def matched(given: Given, x: Tensor, own: Draws, low: float = 0.02, high: float = 0.98) -> Tensor:
    """Distribution matching of samples ``x``, pulled by ``(D_fake - D_real) / mean|x - D_real|``, the teacher
    guided (Yin et al., 2023, arXiv 2311.18828, eq. 7-8)."""
    t, eps = between(given, low, high, own.uniform()), own.normal(*given.shape)
    with torch.no_grad():
        x_t = given.noise(x, t, eps)
        real = given.guided(given.teacher, x_t, t, given.options["guidance"])
        fake = given.net("fake")(x_t, t, given.cond).x0
        g = (fake - real) / (x - real).abs().mean(1, keepdim=True)
    return pulled(x, g)


def logits(given: Given, x: Tensor, own: Draws) -> Tensor:
    """A critic's head on the middle block of the fake, at ``x`` noised to any time."""
    t, eps = between(given, 0, 1, own.uniform()), own.normal(*given.shape)
    return given.net("fake", 1)(given.middle(given.net("fake"), given.noise(x, t, eps), t))


def critic_error(given: Given, x: Tensor, own: Draws) -> Tensor:
    """The loss of that critic on data and on samples ``x``."""
    real, made = logits(given, given.x, own), logits(given, x, own)
    return softplus(-real).mean() + softplus(made).mean()


def noise_error(given: Given, x: Tensor, own: Draws, w: float) -> Tensor:
    """``alpha^2 (eps_fake - eps)^2``, now and then without a prompt; never guided, but a network that takes
    the scale learns at the one it is used at, ``w``."""
    fake, dropped = given.net("fake"), own.one_uniform() < given.options["dropout"]
    t, eps = between(given, 0.001, 1, own.uniform()), own.normal(*given.shape)
    lesson = replace(given, cond=None) if dropped else given
    scale = w if given.takes_scale(fake) else 1.0
    made = lesson.guided(fake, given.noise(x, t, eps), t, scale, "eps")
    return (preserving(given, t, x)[0] ** 2 * (made - eps).square()).mean()
