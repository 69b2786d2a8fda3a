"""A network that knows what it predicts, and one prediction seen as clean data, noise, velocity or score.

A :class:`Denoiser` is a network, its process and the *kind* of its output. Calling it gives a :class:`Prediction`, whose
views ``.x0 .eps .velocity .score`` are computed when asked for, never twice. Each view goes through the formula that stays
finite at both ends of time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor, nn

from stillhouse.conditions import Condition, expand, move
from stillhouse.errors import StillhouseError, unknown
from stillhouse.process import Process, like


def divide(numerator: Tensor, denominator: Tensor, instead: Tensor | None = None) -> Tensor:
    """``numerator / denominator``, and ``instead`` (0 unless given) where the denominator vanishes and the view does not exist."""
    tiny = 1e-14 if denominator.dtype == torch.float64 else 1e-7
    gone = denominator.abs() < tiny
    instead = torch.zeros_like(numerator) if instead is None else instead
    return torch.where(gone, instead, numerator / torch.where(gone, torch.ones_like(denominator), denominator))


@dataclass
class At:
    """The process at the times of one batch: coefficients shaped to multiply ``x``."""

    process: Process
    t: Tensor
    x: Tensor

    @cached_property
    def alpha(self) -> Tensor:
        return like(self.process.alpha(self.t), self.x)

    @cached_property
    def sigma(self) -> Tensor:
        return like(self.process.sigma(self.t), self.x)

    @cached_property
    def dalpha(self) -> Tensor:
        return like(self.process.dalpha(self.t), self.x)

    @cached_property
    def dsigma(self) -> Tensor:
        return like(self.process.dsigma(self.t), self.x)


class Kind:
    """What a network's raw output means. ``x0`` and ``eps`` read it; ``target`` is what it should have said."""

    def inputs(self, at: At) -> tuple[Tensor, Tensor]:
        """What the network is fed as state and time."""
        return at.x, at.t

    def time(self, process: Process, t: Tensor) -> Tensor:
        """What the network is fed for a time ``t``."""
        return t

    def x0(self, raw: Tensor, at: At) -> Tensor:
        raise NotImplementedError

    def eps(self, raw: Tensor, at: At) -> Tensor:
        raise NotImplementedError

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
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
        return divide(at.dsigma * at.x - at.sigma * raw, at.alpha * at.dsigma - at.sigma * at.dalpha, instead=at.x)

    def eps(self, raw: Tensor, at: At) -> Tensor:
        return divide(at.alpha * raw - at.dalpha * at.x, at.alpha * at.dsigma - at.sigma * at.dalpha)

    def target(self, x0: Tensor, eps: Tensor, at: At) -> Tensor:
        return at.dalpha * x0 + at.dsigma * eps


@dataclass
class EDM(Kind):
    """EDM preconditioning (Karras et al., 2022, table 1) in the coordinate ``y = x / alpha``, ``s = sigma / alpha``.

    ``D = c_skip y + c_out F(c_in y, ln(s) / 4)``. ``boundary`` shifts ``c_skip`` and ``c_out`` so that ``D = y`` exactly at
    ``s = boundary``, which a consistency function needs (Song et al., 2023, arXiv 2303.01469, eq. 25).
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
    """Another kind whose clean estimate is tied to the state at the first step of a table: ``f = c_skip x + c_out D``.

    ``c_skip = d^2 / (tau^2 + d^2)`` and ``c_out = tau / sqrt(tau^2 + d^2)`` with ``tau`` = ``scale`` times the step, counted from 0, of a
    table of ``steps``, and ``d = sigma_data`` (Luo et al., 2023, arXiv 2310.04378, section 4.1; 10, 1000 and 0.5 are Diffusers').
    ``inner``: the name of the other kind.
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
        tau = like(self.scale * (at.t * self.steps - 1).clamp_min(0), at.x)
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


KINDS: dict[str, type[Kind]] = {"x0": X0, "eps": Eps, "score": Score, "v": V, "velocity": Velocity, "edm": EDM, "bounded": Bounded}


@dataclass
class Prediction:
    """What a denoiser said at ``(x_t, t)``. ``raw`` is the network's output, every other view is made from it.

    ``x0``: clean data (B, …); ``eps``: noise; ``velocity``: ``dx/dt`` of the probability-flow ODE; ``score``:
    ``grad log p_t(x_t)``. A view that does not exist at an end of time is 0 there (``x0`` of a noise prediction at
    ``alpha = 0``, ``eps`` of a data prediction at ``sigma = 0``).
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
        """The same question answered with another raw output."""
        return Prediction(raw, self.kind, self.at)

    def with_x0(self, x0: Tensor) -> Prediction:
        """The same question answered with another clean estimate (guidance rescaling, thresholding, mixing)."""
        return Prediction(x0, X0(), self.at)


Call = Callable[..., Tensor]


def call_plain(net: nn.Module, x: Tensor, t: Tensor, cond: Condition, **extra: Tensor) -> Tensor:
    """The call signature of our own networks: ``net(x, t, cond, s=…, guidance=…)``."""
    return net(x, t, cond, **extra)


class Denoiser(nn.Module):
    """A network, its process and what it predicts.

    ``net``: any module; ``call(net, x, t, cond, **extra) -> Tensor (B, …)`` adapts its signature (``extra`` may hold ``s``, a
    second time, and ``guidance``, a scale, each of shape (B,)). ``kind``: a :class:`Kind` or one of ``x0 eps score v velocity
    edm``. ``two_time``: the network takes the time ``s`` that a jump ends at. ``empty``: what a foreign network is told when there is
    no condition, one row (the embedding of an empty prompt); ours know by themselves. ``calls`` counts evaluations.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        kind: Kind | str = "velocity",
        *,
        call: Call = call_plain,
        two_time: bool = False,
        empty: Condition = None,
    ):
        super().__init__()
        if isinstance(kind, str):
            if kind not in KINDS:
                raise unknown("prediction kind", kind, KINDS)
            kind = KINDS[kind]()
        self.net, self.process, self.kind, self.call, self.two_time = net, process, kind, call, two_time
        self.empty, self.calls = empty, 0

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition = None, *, s: Tensor | None = None, guidance: Tensor | None = None
    ) -> Prediction:
        """Predict at ``x_t`` of shape (B, …), ``t`` of shape (B,) in [0, 1]; ``s <= t`` only for a two-time network."""
        self.calls += 1
        if cond is None and self.empty is not None:
            cond = expand(move(self.empty, x_t.device), len(x_t))
        at = At(self.process, t, x_t)
        x_in, t_in = self.kind.inputs(at)
        # the schedule may be in float64; the network hears of it in the state's own precision, but never in less than float32
        dtype = torch.promote_types(x_in.dtype, torch.float32)
        extra = {}
        if self.two_time:
            end = (t if s is None else s).clamp_min(self.process.t_min)  # no network is told of times below it
            extra["s"] = self.kind.time(self.process, end).to(dtype)
        if guidance is not None:
            extra["guidance"] = guidance.to(dtype)
        return Prediction(self.call(self.net, x_in, t_in.to(dtype), cond, **extra).to(x_t.dtype), self.kind, at)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        if isinstance(self.net, Denoiser):
            return self.net.device
        return next(chain(self.parameters(), self.buffers()), torch.zeros(0)).device

    def copy(self) -> Denoiser:
        """An independent trainable copy."""
        twin = copy.deepcopy(self)
        twin.calls = 0
        return twin.requires_grad_(True)


class ExactDenoiser(Denoiser):
    """A denoiser in closed form: subclasses compute ``mean(x_t, t, cond)``, the posterior mean of the clean data."""

    def __init__(self, process: Process):
        super().__init__(nn.Identity(), process, "x0")

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        raise NotImplementedError

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition = None, *, s: Tensor | None = None, guidance: Tensor | None = None
    ) -> Prediction:
        self.calls += 1
        return Prediction(self.mean(x_t, t, cond), self.kind, At(self.process, t, x_t))

    def copy(self) -> Denoiser:
        raise StillhouseError("A closed-form teacher has no weights to copy; give the student a network (a world's `network()` makes one).")


class Converted(Denoiser):
    """A denoiser seen as one of another process, at equal ``sigma / alpha``: sample or distil a model on a process it never saw."""

    def __init__(self, denoiser: Denoiser, process: Process):
        super().__init__(denoiser, process, "x0", two_time=denoiser.two_time, empty=denoiser.empty)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition = None, *, s: Tensor | None = None, guidance: Tensor | None = None
    ) -> Prediction:
        from stillhouse.process import convert

        inner = self.net
        assert isinstance(inner, Denoiser)
        x, there = convert(x_t, t, self.process, inner.process)
        to = None if s is None else inner.process.time(self.process.log_snr(s))
        said = inner(x, there, cond, s=to, guidance=guidance)
        return _Pair(said.x0, self.kind, At(self.process, t, x_t), said.eps)


@dataclass
class _Pair(Prediction):
    """A prediction whose clean data and noise were both said elsewhere; noise means the same in every process."""

    noise: Tensor | None = None

    @cached_property
    def eps(self) -> Tensor:
        assert self.noise is not None
        return self.noise


@contextmanager
def count_calls(*denoisers: Denoiser) -> Iterator[Callable[[], int]]:
    """Count network evaluations inside the block: ``with count_calls(d) as nfe: …; nfe()``."""
    inner = {id(m): m for d in denoisers for m in d.modules() if isinstance(m, Denoiser) and not isinstance(m.net, Denoiser)}
    before = sum(m.calls for m in inner.values())
    yield lambda: sum(m.calls for m in inner.values()) - before
