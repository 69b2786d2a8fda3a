"""How data becomes noise: ``x_t = alpha(t) x_0 + sigma(t) eps`` for ``t`` in [0, 1].

``t = 0`` is data, ``t = 1`` is noise. A process is a pair of functions and their derivatives; everything else
(log-SNR, its inverse, noising, velocity, score, conversion) follows from them. Schedule arithmetic runs in
the dtype of ``t``: float32 at least, float64 when given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.draws import Draws


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

    def on_table(self, t: Tensor) -> Tensor:
        """The next time from ``t`` on that a network of this process was trained at: ``t`` itself, unless the
        process is a table of steps. The clean end, 0, stays.

        Training takes its times from here: between two steps of its table a network was never asked.
        """
        return t

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
