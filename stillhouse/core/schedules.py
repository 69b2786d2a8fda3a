"""The noise schedules: how fast data becomes noise, in the families that are in use, and a process by its
name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.process import PROCESSES, Process, at_least_float32
from stillhouse.core.structure import checked, fields_structure


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
        most = 10**6
        require(1 <= self.steps <= most, f"A table has 1 to {most:,} steps, not {self.steps}.")
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

    def on_table(self, t: Tensor) -> Tensor:
        # a thousandth: what float32 makes of i / n
        step = (t.double() * self.steps - 1e-3).ceil().clamp_min(1)
        return torch.where(t > 0, step / self.steps, 0.0).to(t.dtype)

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
        return float((self.sigma_min / self.sigma_max) ** (1 / self.rho))

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


def process_from_config(config: Mapping[str, Any] | str) -> Process:
    """The process that :meth:`Process.config` described; a bare name takes that process's defaults."""
    fields = {"name": config} if isinstance(config, str) else dict(config)
    name = str(fields.pop("name", ""))
    if name not in PROCESSES:
        raise unknown("process", name, PROCESSES)
    checked(fields, fields_structure(PROCESSES[name]), f"Process '{name}' can't be made")
    made = f"Process '{name}' can't be made from {fields}"
    try:
        process = PROCESSES[name](**fields)
        with suppress(NotImplementedError):  # of tokens there is no noise level
            level = process.sigma(torch.tensor([0.5], dtype=torch.float64))
            require(bool(torch.isfinite(level).all()), f"{made}: its noise level at t = 0.5 is no number.")
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise StillhouseError(f"{made}: {error}.") from error
    return process
