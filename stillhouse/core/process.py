"""How data becomes noise: ``x_t = alpha(t) x_0 + sigma(t) eps`` for ``t`` in [0, 1].

``t = 0`` is data, ``t = 1`` is noise. A process is a pair of functions and their derivatives; everything else
(log-SNR, its inverse, noising, velocity, score, conversion) follows from them. Schedule arithmetic runs in
the dtype of ``t``: float32 at least, float64 when given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, unknown


def expand_to(coefficient: Tensor, x: Tensor) -> Tensor:
    """A per-sample coefficient ``(B,)`` shaped and typed to multiply ``x`` of shape ``(B, ...)``.

    Arguments:
        coefficient: one number a sample, (B,), or one a frame, (B, F).
        x: what it will multiply, (B, …).

    Returns:
        The coefficient with trailing dimensions of 1, of the type and on the device of ``x``.
    """
    return coefficient.to(device=x.device, dtype=x.dtype).reshape(
        coefficient.shape + (1,) * (x.dim() - coefficient.dim())
    )


def at_least_float32(t: Tensor) -> Tensor:
    """``t`` as float64 if it is so already, as float32 otherwise."""
    return t if t.dtype == torch.float64 else t.to(torch.float32)


PROCESSES: dict[str, type[Process]] = {}


class Process:
    """A Gaussian noising process. Subclasses give ``alpha, sigma, dalpha, dsigma`` and ``time``.

    ``t_min`` is the smallest time at which a network is evaluated (0 unless a subclass overrides it). A
    subclass with a ``name`` of its own is registered under it for :func:`process_from_config`. ``discrete``:
    its states are whole numbers and not vectors.
    """

    name: str = ""
    discrete: bool = False

    def __init_subclass__(cls) -> None:
        if cls.name:
            PROCESSES[cls.name] = cls

    @property
    def t_min(self) -> float:
        return 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """Signal level at ``t`` of shape ``(B,)``; falls from 1."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at ``t`` of shape ``(B,)``; rises from 0."""
        raise NotImplementedError

    def dalpha(self, t: Tensor) -> Tensor:
        """Derivative of ``alpha`` with respect to ``t``."""
        raise NotImplementedError

    def dsigma(self, t: Tensor) -> Tensor:
        """Derivative of ``sigma`` with respect to ``t``."""
        raise NotImplementedError

    def time(self, log_snr: Tensor) -> Tensor:
        """The ``t`` in [0, 1] with ``lambda(t) = log_snr``; accepts -inf and inf, clamps outside the
        range."""
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """Half log-SNR ``lambda = log(alpha / sigma)``; inf at sigma = 0, -inf at alpha = 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    def ratio(self, t: Tensor) -> Tensor:
        """``sigma / alpha``, the solver coordinate; inf at alpha = 0."""
        return self.sigma(t) / self.alpha(t)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """Inverse of :meth:`ratio`."""
        return self.time(-ratio.log())

    def noise(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """``alpha(t) x + sigma(t) eps`` for ``x, eps`` of shape ``(B, ...)``, ``t`` of shape ``(B,)``.

        Arguments:
            x: clean data, (B, …).
            t: times in [0, 1], (B,).
            eps: standard normal noise, (B, …).

        Returns:
            The state ``x_t``, (B, …).
        """
        return expand_to(self.alpha(t), x) * x + expand_to(self.sigma(t), x) * eps

    def velocity(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """``d x_t / dt = alpha' x + sigma' eps`` along the line of one pair (x, eps).

        Arguments:
            x: clean data, (B, …).
            t: times in [0, 1], (B,).
            eps: the noise of the pair, (B, …).

        Returns:
            The slope, (B, …), per unit of ``t``.
        """
        return expand_to(self.dalpha(t), x) * x + expand_to(self.dsigma(t), x) * eps

    def score(self, t: Tensor, eps: Tensor) -> Tensor:
        """``grad log q(x_t | x_0) = -eps / sigma(t)``.

        Arguments:
            t: times in (0, 1], (B,).
            eps: the noise in the state, (B, …).

        Returns:
            The score, (B, …).
        """
        return -eps / expand_to(self.sigma(t), eps)

    @cached_property
    def prior_std(self) -> float:
        """Standard deviation of the noise at ``t = 1``."""
        return float(self.sigma(torch.ones(1, dtype=torch.float64)))

    def start(
        self,
        draws: Draws,
        shape: Sequence[int],
        t: float = 1.0,
        std: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Where a walk from time ``t`` starts: noise of standard deviation ``sigma(t)``.

        Arguments:
            draws: the source of randomness; its rows are those of the state.
            shape: of one sample.
            t: the time, in [0, 1].
            std: another standard deviation of the noise; None for ``sigma(t)``.
            dtype: of the state.

        Returns:
            The state, (rows, *shape).
        """
        level = self.sigma(torch.tensor(t, dtype=torch.float64)).item() if std is None else std
        return level * draws.normal(*shape, dtype=dtype)

    def to_state(self, x: Tensor, cond: Condition) -> Tensor:
        """The ``x_0`` of this process for data ``x``: itself, unless the process is a bridge from one picture
        to another.

        Arguments:
            x: data, (B, …).
            cond: the condition of the B rows; None for none.

        Returns:
            ``x_0``, (B, …).
        """
        return x

    def to_data(self, x: Tensor, cond: Condition) -> Tensor:
        """The inverse of :meth:`to_state`.

        Arguments:
            x: ``x_0`` of the process, (B, …).
            cond: the condition of the B rows; None for none.

        Returns:
            Data, (B, …).
        """
        return x

    def config(self) -> dict[str, Any]:
        """Name and parameters as plain data; :func:`process_from_config` reads it back."""
        return {"name": self.name, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow: ``alpha = 1 - t``, ``sigma = t`` (Liu et al., 2022, arXiv 2209.03003)."""

    name = "flow"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - at_least_float32(t)

    def sigma(self, t: Tensor) -> Tensor:
        return at_least_float32(t)

    def dalpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(at_least_float32(t))

    def dsigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(at_least_float32(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr)


class VariancePreserving(Process):
    """``alpha = cos(angle)``, ``sigma = sin(angle)``: subclasses give the angle in [0, pi/2], its derivative,
    its inverse."""

    def angle(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def dangle(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def time_of_angle(self, angle: Tensor) -> Tensor:
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        # as a sine, since cos(pi/2) is a tiny number of either sign in floating point: exactly 0 at the right
        # angle, never negative
        return torch.sin(math.pi / 2 - self.angle(at_least_float32(t))).clamp_min(0)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self.angle(at_least_float32(t)))

    def dalpha(self, t: Tensor) -> Tensor:
        return -self.sigma(t) * self.dangle(at_least_float32(t))

    def dsigma(self, t: Tensor) -> Tensor:
        return self.alpha(t) * self.dangle(at_least_float32(t))

    def time(self, log_snr: Tensor) -> Tensor:
        return self.time_of_angle(torch.atan(torch.exp(-log_snr))).clamp(0, 1)


@dataclass(frozen=True)
class Trig(VariancePreserving):
    """TrigFlow: the angle runs linearly from 0 to pi/2 (Lu & Song, 2024, arXiv 2410.11081)."""

    name = "trig"

    def angle(self, t: Tensor) -> Tensor:
        return t * (math.pi / 2)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - at_least_float32(t)) * (math.pi / 2))  # exactly 0 at t = 1

    def dangle(self, t: Tensor) -> Tensor:
        return torch.full_like(t, math.pi / 2)

    def time_of_angle(self, angle: Tensor) -> Tensor:
        return angle / (math.pi / 2)


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """Cosine schedule with the half log-SNR clipped to ``[-clip, clip]``, so that both ends stay finite.

    Nichol & Dhariwal, 2021 (arXiv 2102.09672), in the form of Salimans & Ho, 2022 (arXiv 2202.00512,
    appendix).
    """

    name = "cosine"
    clip: float = 10.0

    def _ends(self) -> tuple[float, float]:
        return math.atan(math.exp(-self.clip)), math.atan(math.exp(self.clip))

    def angle(self, t: Tensor) -> Tensor:
        low, high = self._ends()
        return low + t * (high - low)

    def dangle(self, t: Tensor) -> Tensor:
        low, high = self._ends()
        return torch.full_like(t, high - low)

    def time_of_angle(self, angle: Tensor) -> Tensor:
        low, high = self._ends()
        return (angle - low) / (high - low)


@dataclass(frozen=True)
class LinearVP(Process):
    """Linear-beta VP: ``log alpha = -t^2 (beta_1 - beta_0) / 4 - t beta_0 / 2`` (Song et al., 2020, arXiv
    2011.13456)."""

    name = "linear_vp"
    beta_0: float = 0.1
    beta_1: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        t = at_least_float32(t)
        return -0.25 * t**2 * (self.beta_1 - self.beta_0) - 0.5 * t * self.beta_0

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_0 + at_least_float32(t) * (self.beta_1 - self.beta_0)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def dalpha(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t) * self.alpha(t)

    def dsigma(self, t: Tensor) -> Tensor:
        """``beta alpha^2 / (2 sigma)``. Sigma starts as a square root, so its slope is held finite below
        ``sigma = 1e-4``."""
        return 0.5 * self._beta(t) * self.alpha(t) ** 2 / self.sigma(t).clamp_min(1e-4)

    def time(self, log_snr: Tensor) -> Tensor:
        # 1/alpha^2 = 1 + e^{-2 lambda}; then the positive root of a quadratic, in the form without
        # cancellation
        twice = torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr)
        root = torch.sqrt(self.beta_0**2 + 2 * (self.beta_1 - self.beta_0) * twice)
        t = 2 * twice / (self.beta_0 + root)
        return torch.where(torch.isposinf(twice), torch.ones_like(t), t).clamp(0, 1)


@dataclass(frozen=True)
class ScaledLinearVP(VariancePreserving):
    """Stable Diffusion's table of 1000 steps, ``beta_i = linspace(sqrt(beta_0), sqrt(beta_1))_i^2``, made
    continuous.

    Step ``i`` of the table (counted from 0) lies at ``t = (i + 1) / steps``; between two steps the angle is
    linear in ``t``, which is finite at both ends with or without zero terminal SNR (Lin et al., 2023, arXiv
    2305.08891).
    """

    name = "scaled_linear_vp"
    beta_0: float = 0.00085
    beta_1: float = 0.012
    steps: int = 1000
    zero_terminal_snr: bool = False
    power: float = field(default=2.0)  # 2: scaled-linear; 1: the plain linear table of DDPM
    betas: tuple[float, ...] = field(
        default=(), repr=False
    )  # a table of ``steps`` numbers that no formula above gives

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list, where it was read from a file
        require(
            len(self.betas) in (0, self.steps),
            f"A table of {self.steps} steps needs as many betas, not {len(self.betas)}.",
        )

    @cached_property
    def table(self) -> Tensor:
        """Angles at ``t = 0, 1/steps, …, 1``, float64, shape ``(steps + 1,)``."""
        ends = self.beta_0 ** (1 / self.power), self.beta_1 ** (1 / self.power)
        given = torch.tensor(self.betas, dtype=torch.float64)
        beta = given if self.betas else torch.linspace(*ends, self.steps, dtype=torch.float64) ** self.power
        alpha = torch.cumprod(1 - beta, 0).sqrt()
        if self.zero_terminal_snr:
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        return torch.cat([torch.zeros(1, dtype=torch.float64), torch.atan2((1 - alpha**2).sqrt(), alpha)])

    def time_of_index(self, index: Tensor) -> Tensor:
        """Continuous time of table step ``index`` in ``0 … steps - 1``."""
        return (index + 1) / self.steps

    def index_of_time(self, t: Tensor) -> Tensor:
        """Table step (fractional, from -1 at ``t = 0``) of a continuous time: what a network trained on the
        table is fed."""
        return t * self.steps - 1

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = self.table.to(t.device)
        place = (t.double() * self.steps).clamp(0, self.steps)
        low = place.floor().clamp(max=self.steps - 1).long()
        return table[low], table[low + 1], place - low

    def angle(self, t: Tensor) -> Tensor:
        low, high, part = self._cell(t)
        return (low + part * (high - low)).to(t.dtype)

    def dangle(self, t: Tensor) -> Tensor:
        low, high, _ = self._cell(t)
        return ((high - low) * self.steps).to(t.dtype)

    def time_of_angle(self, angle: Tensor) -> Tensor:
        table, value = self.table.to(angle.device), angle.double().contiguous()
        low = (torch.searchsorted(table, value, right=True) - 1).clamp(0, self.steps - 1)
        part = (value - table[low]) / (table[low + 1] - table[low])
        return ((low + part) / self.steps).to(angle.dtype)


@dataclass(frozen=True)
class VE(Process):
    """EDM's variance-exploding process: ``alpha = 1``, ``sigma = sigma_max t^rho`` (Karras et al., 2022,
    arXiv 2206.00364).

    With ``sigma`` a power of ``t``, ``t = 0`` is exactly data and the Karras grid of eq. 5 is uniform in
    ``t`` between ``t_min`` (where ``sigma = sigma_min``) and 1.
    """

    name = "ve"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @property
    def t_min(self) -> float:
        return (self.sigma_min / self.sigma_max) ** (1 / self.rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(at_least_float32(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * at_least_float32(t) ** self.rho

    def dalpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(at_least_float32(t))

    def dsigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * self.rho * at_least_float32(t) ** (self.rho - 1)

    def time(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(-log_snr) / self.sigma_max).pow(1 / self.rho).clamp(0, 1)


def process_from_config(config: dict[str, Any] | str) -> Process:
    """The process that :meth:`Process.config` described; a bare name takes that process's defaults."""
    fields = {"name": config} if isinstance(config, str) else dict(config)
    name = fields.pop("name", "")
    if name not in PROCESSES:
        raise unknown("process", name, PROCESSES)
    try:
        return PROCESSES[name](**fields)
    except TypeError as error:
        require(False, f"Process '{name}' can't be made from {fields}: {error}.")
        raise


def convert(x: Tensor, t: Tensor, source: Process, target: Process) -> tuple[Tensor, Tensor]:
    """The same noisy state in another process: equal ``sigma/alpha``, rescaled ``x``.

    The scale is the ratio of ``hypot(alpha, sigma)``, which is finite at both ends.

    Arguments:
        x: a state, (B, …).
        t: its times in [0, 1], (B,).
        source: the process that it is a state of.
        target: the process that it becomes a state of.

    Returns:
        The state (B, …) and its times (B,) under ``target``.
    """
    there = target.time(source.log_snr(t))
    scale = torch.hypot(target.alpha(there), target.sigma(there)) / torch.hypot(
        source.alpha(t), source.sigma(t)
    )
    return expand_to(scale, x) * x, there
