"""Bridges: processes from clean data to its degraded copy, as Gaussian processes of the residual.

A Brownian path of variance ``kappa^2 eta(t)`` leads from a clean ``x`` to its degraded ``y``, which the
condition holds as ``cond["image"]``. With ``eta`` rising from 0,

    ``x_t = (1 - eta) x + eta y + c eps``, that is ``r_t = (1 - eta) r_0 + c eps`` with the residual ``r = x -
    y``:

the weights of ``x`` and ``y`` sum to one, so ``y`` drops out. States, data and predictions of a bridge are
residuals (:meth:`Bridge.to_state`, :meth:`Bridge.to_data`); then ``alpha = 1 - eta`` and ``sigma = c`` make
it a :class:`Process` like any other, and every solver, loss and score difference applies as it is.

A path that is pinned at both ends has ``c = kappa sqrt(eta (1 - eta))``; one that ends in noise around ``y``
has ``c = kappa sqrt(eta)``. Either way a state between ``r_0`` and ``r_t`` lies on a Brownian path between
the two, so that one :meth:`Bridge.posterior` serves all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition
from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.prediction import KINDS, X0, At
from stillhouse.core.process import Process, at_least_float32, expand_to

STEEP = 1e-4  # below this sigma the slope of a square root is held finite


def degraded(cond: Condition) -> Tensor:
    """The degraded sample (B, …) that a condition of a bridge holds."""
    if not isinstance(cond, dict) or "image" not in cond:
        raise StillhouseError(
            'A bridge starts from a degraded sample; give it as the condition {"image": tensor}.'
        )
    return cond["image"]


def unconditional(net: nn.Module, x: Tensor, t: Tensor, cond: Condition, **extra: Tensor) -> Tensor:
    """How a network is called that takes states ``x_t`` alone and must not be given ``y`` (the kind of I2SB),
    as ``Denoiser(call=…)``.

    Its input is ``r_t + y`` and its output ``x_0`` (kind ``x0``), which becomes ``x_0 - y``.

    Arguments:
        net: a network called as ``net(x, t, None)``.
        x: residuals ``r_t``, (B, …).
        t: times in [0, 1], (B,).
        cond: the condition of the B rows, with the degraded pictures.
        extra: further inputs, handed on to the network.

    Returns:
        The clean residual, (B, …).
    """
    y = degraded(cond)
    residual: Tensor = net(x + y, t, None, **extra) - y
    return residual


class Bridge(Process):
    """Subclasses give ``kappa``, ``eta(t)``, its slope and its inverse; the path is pinned at both ends
    unless they override ``sigma``."""

    @property
    def kappa(self) -> float:
        """Standard deviation of the whole path, were its end left free."""
        raise NotImplementedError

    def eta(self, t: Tensor) -> Tensor:
        """Share of the way from clean to degraded at ``t``, rising from 0."""
        raise NotImplementedError

    def deta(self, t: Tensor) -> Tensor:
        """Derivative of ``eta``."""
        raise NotImplementedError

    def time_of_eta(self, eta: Tensor) -> Tensor:
        """Inverse of :meth:`eta`."""
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self.eta(t)

    def sigma(self, t: Tensor) -> Tensor:
        eta = self.eta(t)
        return self.kappa * (eta * (1 - eta)).clamp_min(0).sqrt()

    def dalpha(self, t: Tensor) -> Tensor:
        return -self.deta(t)

    def dsigma(self, t: Tensor) -> Tensor:
        """``kappa^2 (1 - 2 eta) eta' / (2 sigma)``: a square root at either end, its slope held finite
        there."""
        return 0.5 * self.kappa**2 * (1 - 2 * self.eta(t)) * self.deta(t) / self.sigma(t).clamp_min(STEEP)

    def ratio(self, t: Tensor) -> Tensor:
        eta = self.eta(t)
        return (
            self.kappa * (eta / (1 - eta)).sqrt()
        )  # inf at the pinned end, where alpha and sigma both vanish

    def log_snr(self, t: Tensor) -> Tensor:
        return -self.ratio(t).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return self.time_of_eta(torch.sigmoid(-2 * (log_snr + math.log(self.kappa))))

    def posterior(self, r_0: Tensor, r_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """``q(r_s | r_0, r_t)`` for ``s < t`` of shape (B,): mean (B, …) and standard deviation (B,).

        ``r_0 + (eta_s / eta_t) (r_t - r_0)`` and ``kappa^2 eta_s (eta_t - eta_s) / eta_t``: a Brownian bridge
        between the two (Yue et al., 2023, arXiv 2307.12348; Liu et al., 2023, arXiv 2302.05872).

        Arguments:
            r_0: clean residuals, (B, …).
            r_t: residuals at ``t``, (B, …).
            t: times in (0, 1], (B,).
            s: earlier times in [0, t), (B,).

        Returns:
            Mean (B, …) and standard deviation (B,).
        """
        here, there = self.eta(t), self.eta(s)
        share = there / here
        return r_0 + expand_to(share, r_t) * (r_t - r_0), self.kappa * (share * (here - there)).clamp_min(
            0
        ).sqrt()

    def to_state(self, x: Tensor, cond: Condition) -> Tensor:
        return x - degraded(cond)

    def to_data(self, x: Tensor, cond: Condition) -> Tensor:
        return x + degraded(cond)


@dataclass(frozen=True)
class Brownian(Bridge):
    """The Brownian bridge: ``alpha = 1 - t``, ``sigma = scale sqrt(t (1 - t))``."""

    name = "brownian"
    scale: float = 1.0

    def __post_init__(self) -> None:
        require(self.scale > 0, f"The scale of a Brownian bridge is positive, not {self.scale}.")

    @property
    def kappa(self) -> float:
        return self.scale

    def eta(self, t: Tensor) -> Tensor:
        return at_least_float32(t)

    def deta(self, t: Tensor) -> Tensor:
        return torch.ones_like(at_least_float32(t))

    def time_of_eta(self, eta: Tensor) -> Tensor:
        return eta


@dataclass(frozen=True)
class I2SB(Bridge):
    """The image-to-image Schrödinger bridge: its noise enters fastest half-way (Liu et al., 2023, arXiv
    2302.05872).

    The rate is ``(sqrt(beta_0) + t (sqrt(beta_1) - sqrt(beta_0)))^2`` up to ``t = 1/2`` and its mirror image
    after that, as in the paper's table of 1000 steps; ``kappa^2`` is its integral and ``eta`` the share of it
    until ``t``.
    """

    name = "i2sb"
    beta_0: float = 0.1
    beta_1: float = 0.3

    def __post_init__(self) -> None:
        require(
            0 < self.beta_0 < self.beta_1,
            f"The rates of a bridge rise from beta_0 > 0 to beta_1, not {self.beta_0} to {self.beta_1}.",
        )

    @cached_property
    def _line(self) -> tuple[float, float]:
        return self.beta_0**0.5, self.beta_1**0.5 - self.beta_0**0.5

    def _risen(self, t: Tensor) -> Tensor:
        """The integral of the rate up to ``t <= 1/2``."""
        start, slope = self._line
        return t * (start**2 + start * slope * t + slope**2 * t**2 / 3)

    @cached_property
    def _half(self) -> float:
        return self._risen(torch.tensor(0.5, dtype=torch.float64)).item()

    @property
    def kappa(self) -> float:
        return float((2 * self._half) ** 0.5)

    def eta(self, t: Tensor) -> Tensor:
        t = at_least_float32(t)
        near = self._risen(torch.minimum(t, 1 - t)) / (2 * self._half)
        return torch.where(t <= 0.5, near, 1 - near)

    def deta(self, t: Tensor) -> Tensor:
        t, (start, slope) = at_least_float32(t), self._line
        return (start + slope * torch.minimum(t, 1 - t)) ** 2 / (2 * self._half)

    def time_of_eta(self, eta: Tensor) -> Tensor:
        start, slope = self._line
        risen = 2 * self._half * torch.minimum(eta, 1 - eta)
        root = (start**3 + 3 * slope * risen).pow(1 / 3)
        near = (
            3 * risen / (root**2 + root * start + start**2)
        )  # (root - start) / slope, without its cancellation
        return torch.where(eta <= 0.5, near, 1 - near)


@dataclass(frozen=True)
class ResShift(Bridge):
    """Residual shifting: a table of ``steps`` levels whose last is noise around the degraded sample (Yue et
    al., 2023, arXiv 2307.12348).

    ``sqrt(eta_i) = f (last / f)^((i / (steps - 1))^power)`` with ``f = first / kappa``, so that ``first`` is
    the noise of the first level and ``kappa last`` that of the last. Level ``i``, counted from 0, lies at ``t
    = (i + 1) / steps``; between two levels, and from 0 at the clean end, ``sqrt(eta)`` is linear in ``t``.
    ``alpha = 1 - eta``, ``sigma = kappa sqrt(eta)``: its end is not pinned.
    """

    name = "resshift"
    kappa: float = 2.0
    first: float = 0.04
    last: float = 0.99
    power: float = 0.3
    steps: int = 15

    def __post_init__(self) -> None:
        require(self.steps >= 2, f"A residual-shift table has 2 or more levels, not {self.steps}.")
        rising = 0 < self.first < self.kappa * self.last and self.last < 1
        require(
            rising,
            f"The levels sqrt(eta) rise from first / kappa > 0 to last < 1, not {self.first} / "
            f"{self.kappa} to {self.last}.",
        )

    @cached_property
    def table(self) -> Tensor:
        """``sqrt(eta)`` at ``t = 0, 1/steps, …, 1``, float64, shape ``(steps + 1,)``."""
        low = self.first / self.kappa
        place = torch.linspace(0, 1, self.steps, dtype=torch.float64) ** self.power
        return torch.cat([torch.zeros(1, dtype=torch.float64), low * (self.last / low) ** place])

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``sqrt(eta)`` at both ends of the cell of the table that holds ``t``, and how far in it lies, in
        float64."""
        table, place = self.table.to(t.device), t.double() * self.steps
        low = place.long().clamp(0, self.steps - 1)
        return table[low], table[low + 1], place - low

    def _root(self, t: Tensor) -> Tensor:
        return torch.lerp(*self._cell(t)).to(at_least_float32(t).dtype)

    def _slope(self, t: Tensor) -> Tensor:
        low, high, _ = self._cell(t)
        return ((high - low) * self.steps).to(at_least_float32(t).dtype)

    def eta(self, t: Tensor) -> Tensor:
        return self._root(t) ** 2

    def deta(self, t: Tensor) -> Tensor:
        return 2 * self._root(t) * self._slope(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.kappa * self._root(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return self.kappa * self._slope(t)

    def ratio(self, t: Tensor) -> Tensor:
        root = self._root(t)
        return self.kappa * root / (1 - root**2)

    def time(self, log_snr: Tensor) -> Tensor:
        # the root of q u^2 + u - q = 0 in u = sqrt(eta), q = ratio / kappa, in the form that is finite at q =
        # 0 and inf
        over = self.kappa * torch.exp(log_snr)
        return self._time_of_root(2 / (over + (over**2 + 4).sqrt())).clamp(0, 1)

    def time_of_eta(self, eta: Tensor) -> Tensor:
        return self._time_of_root(eta.sqrt())

    def _time_of_root(self, root: Tensor) -> Tensor:
        table, value = self.table.to(root.device), root.double().contiguous()
        low = (torch.searchsorted(table, value, right=True) - 1).clamp(0, self.steps - 1)
        return ((low + (value - table[low]) / (table[low + 1] - table[low])) / self.steps).to(root.dtype)


class Scaled(X0):
    """Clean data, by a network whose input is divided by ``sqrt(1 + sigma^2)``: of about unit size at every
    noise level."""

    def inputs(self, at: At) -> tuple[Tensor, Tensor]:
        return at.x / (1 + at.sigma**2).sqrt(), at.t


KINDS["scaled"] = Scaled
