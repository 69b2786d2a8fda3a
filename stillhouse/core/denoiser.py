"""A network, its process and what it predicts.

A :class:`Denoiser` is a network, its process and the *kind* of its output; calling it gives a
:class:`Prediction`. Closed forms and denoisers seen on another process are denoisers again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import stillhouse.core.bridge
import stillhouse.core.token_prediction  # noqa: F401 (both: whoever has a denoiser finds their processes and kinds by name)
from stillhouse.core.conditions import Condition, expand, move
from stillhouse.core.errors import StillhouseError, unknown
from stillhouse.core.precision import at_least_float32, own_autocast
from stillhouse.core.prediction import KINDS, At, Kind, Prediction
from stillhouse.core.process import Process

Call = Callable[..., Tensor]


def call_plain(net: nn.Module, x: Tensor, t: Tensor, cond: Condition, **extra: Tensor) -> Tensor:
    """The call signature of our own networks: ``net(x, t, cond, s=…, guidance=…)``; one in half precision
    computes under autocast, since states and times are float32.

    Arguments:
        net: the network.
        x: states as the network takes them, (B, *shape).
        t: times as the network takes them, (B,).
        cond: the condition of the B rows; None for none.
        extra: ``s``, a second time, and ``guidance``, a scale, each (B,), where the network takes them.

    Returns:
        The raw output, (B, *shape).
    """
    with own_autocast(net, x.device, always=True):
        out: Tensor = net(x, t, cond, **extra)
    return out


class Denoiser(nn.Module):
    """A network, its process and what it predicts.

    ``net``: any module; ``call(net, x, t, cond, **extra) -> Tensor (B, …)`` adapts its signature (``extra``
    may hold ``s``, a second time, and ``guidance``, a scale, each of shape (B,)). ``kind``: a :class:`Kind`
    or one of ``x0 eps score v velocity edm``. ``two_time``: the network takes the time ``s`` that a jump ends
    at. ``empty``: the input of a foreign network where there is no condition, one row (the embedding of an
    empty prompt); our own networks have an empty condition built in. ``negative_condition``: what guidance
    moves away from, one row (the embedding of a negative prompt); None: the empty condition. ``calls`` counts
    evaluations.
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
        self.negative_condition: Condition = None

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Prediction:
        """Predict at the states ``x_t``.

        Arguments:
            x_t: states, (B, *shape).
            t: times in [0, 1], (B,); for clips also one a frame, (B, F).
            cond: the condition of the B rows; None for none.
            s: the times ``s <= t`` that a jump ends at, (B,); None for ``t``. Only a two-time network reads
                it.
            guidance: scales ``w``, (B,), 1 for none, for a network that takes them; None otherwise.

        Returns:
            The prediction, with its views ``x0 eps velocity score``, (B, *shape) each.
        """
        self.calls += 1
        if cond is None and self.empty is not None:
            cond = expand(move(self.empty, x_t.device), len(x_t))
        at = At(self.process, t, x_t)
        x_in, t_in = self.kind.inputs(at)
        # the schedule may be in float64; the network takes times in the state's own precision, but never in
        # less than float32
        dtype = torch.promote_types(x_in.dtype, torch.float32)
        extra = {}
        if self.two_time:
            end = (t if s is None else s).clamp_min(
                self.process.t_min
            )  # no network is evaluated at times below it
            extra["s"] = self.kind.time(self.process, end).to(dtype)
        if guidance is not None:
            extra["guidance"] = guidance.to(dtype)
        with own_autocast(self.net, x_t.device):
            raw = self.call(self.net, x_in, t_in.to(dtype), cond, **extra)
        return self.kind.predict(at_least_float32(raw), at)

    if TYPE_CHECKING:

        def __call__(
            self,
            x_t: Tensor,
            t: Tensor,
            cond: Condition = None,
            *,
            s: Tensor | None = None,
            guidance: Tensor | None = None,
        ) -> Prediction:
            """:meth:`forward`, whose types ``nn.Module`` leaves open."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        if isinstance(self.net, Denoiser):
            return self.net.device
        return next(chain(self.parameters(), self.buffers()), torch.zeros(0)).device

    def copy(self) -> Denoiser:
        """An independent trainable copy; raises :class:`StillhouseError` for a network that can't be
        copied."""
        try:
            twin = copy.deepcopy(self)
        # a network of the user's may hold anything
        except (RuntimeError, TypeError, AttributeError) as error:
            line = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
            raise StillhouseError(
                f"The network {type(self.net).__name__} can't be copied, which every student is: {line}."
            ) from error
        twin.calls = 0
        return twin.requires_grad_(True)


class ExactDenoiser(Denoiser):
    """A denoiser in closed form: subclasses compute ``mean(x_t, t, cond)``, the posterior mean of the clean
    data, or what else their ``prediction`` is made of."""

    prediction: type[Prediction] = Prediction

    def __init__(self, process: Process):
        super().__init__(nn.Identity(), process, "x0")

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The posterior mean ``E[x_0 | x_t, cond]``.

        Arguments:
            x_t: states, (B, *shape).
            t: times in [0, 1], (B,).
            cond: the condition of the B rows; None for none.

        Returns:
            The clean estimate, (B, *shape).
        """
        raise NotImplementedError

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Prediction:
        self.calls += 1
        return self.prediction(self.mean(x_t, t, cond), self.kind, At(self.process, t, x_t))

    def copy(self) -> Denoiser:
        raise StillhouseError(
            "A closed-form teacher has no weights to copy; give the student a network (a world's "
            "`network()` makes one)."
        )


class Wrapped(Denoiser):
    """A denoiser around another one, of the same process and kind unless given."""

    net: Denoiser

    def __init__(self, denoiser: Denoiser, process: Process | None = None, kind: Kind | str | None = None):
        super().__init__(
            denoiser,
            denoiser.process if process is None else process,
            denoiser.kind if kind is None else kind,
            two_time=denoiser.two_time,
            empty=denoiser.empty,
        )
        self.negative_condition = denoiser.negative_condition

    @property
    def plain(self) -> Denoiser:
        """The denoiser inside."""
        assert isinstance(self.net, Denoiser)
        return self.net


class Converted(Wrapped):
    """A denoiser seen as one of another process, at equal ``sigma / alpha``: sample or distil a model on a
    process that it was not trained on."""

    def __init__(self, denoiser: Denoiser, process: Process):
        super().__init__(denoiser, process, "x0")

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition = None,
        *,
        s: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Prediction:
        from stillhouse.core.process import convert

        inner = self.plain
        x, there = convert(x_t, t, self.process, inner.process)
        to = None if s is None else inner.process.time(self.process.log_snr(s))
        pred = inner(x, there, cond, s=to, guidance=guidance)
        return _Pair(pred.x0, self.kind, At(self.process, t, x_t), pred.eps)


@dataclass
class _Pair(Prediction):
    """A prediction whose clean data and noise both come from elsewhere; noise means the same in every
    process."""

    noise: Tensor | None = None

    @cached_property
    def eps(self) -> Tensor:
        assert self.noise is not None
        return self.noise


@contextmanager
def count_calls(*denoisers: Denoiser) -> Iterator[Callable[[], int]]:
    """Count network evaluations inside the block: ``with count_calls(d) as nfe: …; nfe()``. A denoiser inside
    wrappers is counted once."""
    inner = {
        id(m): m
        for d in denoisers
        for m in d.modules()
        if isinstance(m, Denoiser) and not isinstance(m.net, Denoiser)
    }
    before = sum(m.calls for m in inner.values())
    yield lambda: sum(m.calls for m in inner.values()) - before
