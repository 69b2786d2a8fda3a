"""One prediction seen as clean data, noise, velocity or score; and the kinds of output that a network may
have.

Each view goes through the formula that stays finite at both ends of time, and is computed when asked for,
never twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stillhouse.core.errors import unknown
from stillhouse.core.process import Process, expand_to


def divide(numerator: Tensor, denominator: Tensor, instead: Tensor | None = None) -> Tensor:
    """``numerator / denominator``, and ``instead`` (0 unless given) where the denominator vanishes and the
    view does not exist.

    Arguments:
        numerator: any shape.
        denominator: of a shape that goes with it.
        instead: what stands where the denominator is 0.

    Returns:
        The quotient, without inf or nan.
    """
    tiny = 1e-14 if denominator.dtype == torch.float64 else 1e-7
    gone = denominator.abs() < tiny
    instead = torch.zeros_like(numerator) if instead is None else instead
    return torch.where(
        gone, instead, numerator / torch.where(gone, torch.ones_like(denominator), denominator)
    )


@dataclass
class At:
    """The process at the times of one batch: coefficients shaped to multiply ``x``."""

    process: Process
    t: Tensor
    x: Tensor

    @cached_property
    def alpha(self) -> Tensor:
        return expand_to(self.process.alpha(self.t), self.x)

    @cached_property
    def sigma(self) -> Tensor:
        return expand_to(self.process.sigma(self.t), self.x)

    @cached_property
    def dalpha(self) -> Tensor:
        return expand_to(self.process.dalpha(self.t), self.x)

    @cached_property
    def dsigma(self) -> Tensor:
        return expand_to(self.process.dsigma(self.t), self.x)


class Kind:
    """What a network's raw output means. ``x0`` and ``eps`` are made of it; ``target`` is its regression
    target."""

    def predict(self, raw: Tensor, at: At) -> Prediction:
        """The prediction that a network's output ``raw`` stands for.

        Arguments:
            raw: the network's output, (B, …).
            at: the process at the times of the batch.

        Returns:
            The prediction, with its views ``x0 eps velocity score``.
        """
        return Prediction(raw.to(at.x.dtype), self, at)

    def inputs(self, at: At) -> tuple[Tensor, Tensor]:
        """What the network is fed as state and time."""
        return at.x, at.t

    def time(self, process: Process, t: Tensor) -> Tensor:
        """What the network is fed for a time ``t``.

        Arguments:
            process: the denoiser's process.
            t: times in [0, 1], (B,).

        Returns:
            The network's own time, (B,).
        """
        return t

    def x0(self, raw: Tensor, at: At) -> Tensor:
        """The clean estimate.

        Arguments:
            raw: the network's output, (B, …).
            at: the process at the times of the batch, and its states.

        Returns:
            The clean estimate, (B, …); 0 where nothing determines it, as for predicted noise at ``alpha =
            0``.
        """
        raise NotImplementedError

    def eps(self, raw: Tensor, at: At) -> Tensor:
        """The noise estimate.

        Arguments:
            raw: the network's output, (B, …).
            at: the process at the times of the batch, and its states.

        Returns:
            The noise estimate, (B, …); 0 where nothing determines it, as for predicted data at ``sigma = 0``.
        """
        raise NotImplementedError

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        """The output of a perfect network: what it is trained to regress.

        Arguments:
            x0: clean data, (B, …).
            eps: the noise in the states, (B, …).
            at: the process at the times of the batch, and its states.

        Returns:
            The target of the raw output, (B, …).
        """
        raise NotImplementedError


class X0(Kind):
    """Clean data."""

    def x0(self, raw: Tensor, at: At) -> Tensor:
        return raw

    def eps(self, raw: Tensor, at: At) -> Tensor:
        return divide(at.x - at.alpha * raw, at.sigma)

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        return x0


class Eps(Kind):
    """The noise."""

    def x0(self, raw: Tensor, at: At) -> Tensor:
        return divide(at.x - at.sigma * raw, at.alpha)

    def eps(self, raw: Tensor, at: At) -> Tensor:
        return raw

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        return eps


class Score(Kind):
    """The score ``-eps / sigma``."""

    def x0(self, raw: Tensor, at: At) -> Tensor:
        return divide(at.x + at.sigma**2 * raw, at.alpha)

    def eps(self, raw: Tensor, at: At) -> Tensor:
        return -at.sigma * raw

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        return divide(-eps, at.sigma)


class V(Kind):
    """``v = alpha eps - sigma x0`` (Salimans & Ho, 2022): finite everywhere."""

    def x0(self, raw: Tensor, at: At) -> Tensor:
        return (at.alpha * at.x - at.sigma * raw) / (at.alpha**2 + at.sigma**2)

    def eps(self, raw: Tensor, at: At) -> Tensor:
        return (at.sigma * at.x + at.alpha * raw) / (at.alpha**2 + at.sigma**2)

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        return at.alpha * eps - at.sigma * x0


class Velocity(Kind):
    """``u = alpha' x0 + sigma' eps``, the derivative of the path in ``t``."""

    def x0(self, raw: Tensor, at: At) -> Tensor:
        # the divisor vanishes only where sigma starts flat, at the clean end: there the state is the data
        return divide(
            at.dsigma * at.x - at.sigma * raw, at.alpha * at.dsigma - at.sigma * at.dalpha, instead=at.x
        )

    def eps(self, raw: Tensor, at: At) -> Tensor:
        return divide(at.alpha * raw - at.dalpha * at.x, at.alpha * at.dsigma - at.sigma * at.dalpha)

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        return at.dalpha * x0 + at.dsigma * eps


@dataclass
class EDM(Kind):
    """EDM preconditioning (Karras et al., 2022, table 1) in the coordinate ``y = x / alpha``, ``s = sigma /
    alpha``.

    ``D = c_skip y + c_out F(c_in y, ln(s) / 4)``. ``boundary`` shifts ``c_skip`` and ``c_out`` so that ``D =
    y`` exactly at ``s = boundary``, which a consistency function needs (Song et al., 2023, arXiv 2303.01469,
    eq. 25).
    """

    sigma_data: float = 0.5
    boundary: float = 0.0

    def inputs(self, at: At) -> tuple[Tensor, Tensor]:
        scale = (at.sigma**2 + (self.sigma_data * at.alpha) ** 2).sqrt()
        return at.x / scale, self.time(at.process, at.t)

    def time(self, process: Process, t: Tensor) -> Tensor:
        return -process.log_snr(t).clamp(-20, 20) / 4

    def _scales(self, at: At) -> tuple[Tensor, Tensor]:
        # c_skip / alpha and c_out, written in (alpha, sigma) so that nothing is divided by an alpha of 0
        signal, shifted = self.sigma_data * at.alpha, at.sigma - self.boundary * at.alpha
        skip = self.sigma_data * signal / (shifted**2 + signal**2)
        return skip, self.sigma_data * shifted / (at.sigma**2 + signal**2).sqrt()

    def x0(self, raw: Tensor, at: At) -> Tensor:
        skip, out = self._scales(at)
        return skip * at.x + out * raw

    def eps(self, raw: Tensor, at: At) -> Tensor:
        if self.boundary:
            return divide(at.x - at.alpha * self.x0(raw, at), at.sigma)
        # (x - alpha D) / sigma with sigma cancelled by hand: finite at the clean end
        signal = self.sigma_data * at.alpha
        square = at.sigma**2 + signal**2
        return at.sigma / square * at.x - signal / square.sqrt() * raw

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        skip, out = self._scales(at)
        return divide(x0 - skip * at.x, out)


@dataclass
class Bounded(Kind):
    """Another kind whose clean estimate is tied to the state at the first step of a table: ``f = c_skip x +
    c_out D``.

    ``c_skip = d^2 / (tau^2 + d^2)`` and ``c_out = tau / sqrt(tau^2 + d^2)`` with ``tau`` = ``scale`` times
    the step, counted from 0, of a table of ``steps``, and ``d = sigma_data`` (Luo et al., 2023, arXiv
    2310.04378, section 4.1; 10, 1000 and 0.5 are Diffusers'). ``inner``: the name of the other kind.
    """

    inner: str = "eps"
    steps: int = 1000
    scale: float = 10.0
    sigma_data: float = 0.5

    @cached_property
    def _inner(self) -> Kind:
        if self.inner not in KINDS:
            raise unknown("prediction kind", self.inner, KINDS)
        return KINDS[self.inner]()

    def inputs(self, at: At) -> tuple[Tensor, Tensor]:
        return self._inner.inputs(at)

    def time(self, process: Process, t: Tensor) -> Tensor:
        return self._inner.time(process, t)

    def _scales(self, at: At) -> tuple[Tensor, Tensor]:
        tau = expand_to(self.scale * (at.t * self.steps - 1).clamp_min(0), at.x)
        square = tau**2 + self.sigma_data**2
        return self.sigma_data**2 / square, tau / square.sqrt()

    def x0(self, raw: Tensor, at: At) -> Tensor:
        skip, out = self._scales(at)
        return skip * at.x + out * self._inner.x0(raw, at)

    def eps(self, raw: Tensor, at: At) -> Tensor:
        return divide(at.x - at.alpha * self.x0(raw, at), at.sigma)

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        skip, out = self._scales(at)
        inner = divide(x0 - skip * at.x, out, instead=x0)
        return self._inner.target(inner, divide(at.x - at.alpha * inner, at.sigma), at)


KINDS: dict[str, type[Kind]] = {
    "x0": X0,
    "eps": Eps,
    "score": Score,
    "v": V,
    "velocity": Velocity,
    "edm": EDM,
    "bounded": Bounded,
}


@dataclass
class Prediction:
    """The prediction of a denoiser at ``(x_t, t)``. ``raw`` is the network's output, every other view is made
    from it.

    ``x0``: clean data (B, …); ``eps``: noise; ``velocity``: ``dx/dt`` of the probability-flow ODE; ``score``:
    ``grad log p_t(x_t)``. A view that does not exist at an end of time is 0 there (``x0`` of a noise
    prediction at ``alpha = 0``, ``eps`` of a data prediction at ``sigma = 0``).
    """

    raw: Tensor
    kind: Kind
    at: At

    @cached_property
    def x0(self) -> Tensor:
        return self.kind.x0(self.raw, self.at)

    @cached_property
    def eps(self) -> Tensor:
        return self.kind.eps(self.raw, self.at)

    @cached_property
    def velocity(self) -> Tensor:
        if isinstance(self.kind, Velocity):
            return self.raw
        return self.at.dalpha * self.x0 + self.at.dsigma * self.eps

    @cached_property
    def score(self) -> Tensor:
        if isinstance(self.kind, Score):
            return self.raw
        return divide(-self.eps, self.at.sigma)

    def replace(self, raw: Tensor) -> Prediction:
        """The same state and time with another raw output."""
        return Prediction(raw, self.kind, self.at)

    def with_x0(self, x0: Tensor) -> Prediction:
        """The same state and time with another clean estimate (guidance rescaling, thresholding, mixing)."""
        return Prediction(x0, X0(), self.at)

    def with_both(self, x0: Tensor, eps: Tensor) -> Prediction:
        """The same state and time with two estimates that need not go together, for a sampler that clips the
        one and keeps the other.

        Arguments:
            x0: the clean estimate, (B, …).
            eps: the noise estimate, (B, …).

        Returns:
            The prediction.
        """
        made = self.with_x0(x0)
        made.__dict__["eps"] = eps
        return made
