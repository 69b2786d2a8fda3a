"""How text becomes noise: every token on its own keeps its value with probability ``alpha(t)``, or else is
replaced.

*Masked* tokens are replaced by a mask (Sahoo et al., 2024, arXiv 2406.07524), *uniform* ones by any token
(Schiff et al., 2024, arXiv 2412.10193). States are int64 of shape (B, L); the vocabulary holds ``vocab`` real
tokens, 0 … ``vocab - 1``. A network says which real token every position held
(:mod:`stillhouse.core.token_prediction`). Probabilities are kept as logarithms, and steps are taken in
float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require, required_type
from stillhouse.core.process import Process, at_least_float32

SCHEDULES = ("log_linear", "cosine")


def choose(log_probs: Tensor, u: Tensor) -> Tensor:
    """Draw from categorical distributions by the inverse of their cumulated sums.

    In float64: noise of float32 cuts the tails off, which lowers the temperature. A token of probability 0 is
    never drawn.

    Arguments:
        log_probs: logarithms of K probabilities, or weights, each, (…, K).
        u: uniform numbers in [0, 1), (…).

    Returns:
        The indices drawn, int64 (…).
    """
    sums = log_probs.double().exp().cumsum(-1)
    place = torch.searchsorted(sums, (u.double() * sums[..., -1])[..., None], right=True)[..., 0]
    return place.clamp(max=log_probs.shape[-1] - 1)


def one_hot(x: Tensor, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Log-probabilities of distributions that are certain of one token.

    Arguments:
        x: the tokens in 0 … ``size - 1``, int64 (B, L).
        size: number of tokens K that there are.
        dtype: of the result.

    Returns:
        0 at the tokens and -inf elsewhere, (B, L, K).
    """
    return torch.full((*x.shape, size), -math.inf, dtype=dtype, device=x.device).scatter(
        -1, x[..., None], 0.0
    )


def at_token(values: Tensor, x: Tensor) -> Tensor:
    """The entries of ``values`` at the tokens ``x``.

    Arguments:
        values: one number a token of the vocabulary, (B, L, K).
        x: tokens in 0 … K - 1, int64 (B, L).

    Returns:
        The entries, (B, L).
    """
    return values.gather(-1, x[..., None])[..., 0]


def over_tokens(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """A coefficient of the process, in float64 and shaped to multiply (B, L, K).

    Arguments:
        f: the coefficient as a function of time, such as ``process.alpha``.
        t: times in [0, 1], (B,), or a time a token, (B, L).

    Returns:
        The coefficient, (B, 1, 1) or (B, L, 1).
    """
    return f(t.double()).reshape(len(t), -1, 1)


@dataclass(frozen=True)
class Tokens(Process):
    """A process of tokens. ``schedule``: ``log_linear``, ``alpha = 1 - (1 - eps) t``, or ``cosine``, ``alpha
    = 1 - cos(pi (1 - t) / 2)``.

    ``sigma = 1 - alpha`` is the share of tokens that are replaced. Subclasses define the replacement.
    """

    vocab: int = 256
    schedule: str = "log_linear"
    eps: float = 1e-3

    discrete = True

    def __post_init__(self) -> None:
        require(
            isinstance(self.vocab, int) and self.vocab >= 2,
            f"A vocabulary has at least two tokens, not {self.vocab!r}.",
        )
        require(
            self.schedule in SCHEDULES,
            f"The schedule of a token process is one of {', '.join(SCHEDULES)}, not {self.schedule!r}.",
        )
        require(0 <= self.eps < 1, f"The signal left at t = 1, eps, must lie in [0, 1), not {self.eps}.")

    @property
    def t_min(self) -> float:
        return 1e-3

    @property
    def states(self) -> int:
        """Values that a token of a noised text may have."""
        return self.vocab

    def sigma(self, t: Tensor) -> Tensor:
        t = at_least_float32(t)
        return torch.sin(math.pi / 2 * t) if self.schedule == "cosine" else (1 - self.eps) * t

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self.sigma(t)

    def dsigma(self, t: Tensor) -> Tensor:
        t = at_least_float32(t)
        return (
            math.pi / 2 * torch.cos(math.pi / 2 * t)
            if self.schedule == "cosine"
            else torch.full_like(t, 1 - self.eps)
        )

    def dalpha(self, t: Tensor) -> Tensor:
        return -self.dsigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        sigma = torch.sigmoid(-log_snr)
        t = torch.asin(sigma) * 2 / math.pi if self.schedule == "cosine" else sigma / (1 - self.eps)
        return t.clamp(0, 1)

    def replaced(self, t: Tensor, u: Tensor) -> Tensor:
        """Which tokens are replaced at ``t``: ever more as ``t`` rises.

        Arguments:
            t: times in [0, 1], (B,) or (B, L).
            u: uniform numbers in [0, 1), (B, L); equal ones give nested masks at all times.

        Returns:
            bool, (B, L).
        """
        return u >= self.alpha(t).to(u).reshape(len(t), -1)

    def noise(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The state at ``t`` of clean tokens ``x`` (B, L), by uniform numbers ``eps`` (B, L) in [0, 1), best
        in float64."""
        alpha = self.alpha(t).to(eps).reshape(len(t), -1)
        # a replaced token has u in [alpha, 1); where in there is a uniform number again
        again = (eps - alpha) / (1 - alpha).clamp_min(torch.finfo(eps.dtype).tiny)
        return torch.where(self.replaced(t, eps), self.instead(again), x)

    def instead(self, u: Tensor) -> Tensor:
        """What takes the place of tokens, (B, L) int64, by uniform numbers ``u`` (B, L)."""
        raise NotImplementedError

    def start(
        self,
        draws: Draws,
        shape: Sequence[int],
        t: float = 1.0,
        std: float | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Where a walk starts, (rows, *shape) int64: every token replaced, whatever ``t``, ``std`` and
        ``dtype``."""
        return self.instead(draws.uniform(0.0, 1.0, *shape, dtype=torch.float64))

    def read(self, raw: Tensor, x: Tensor) -> Tensor:
        """The distribution of the clean tokens that a network's logits stand for.

        Arguments:
            raw: logits, (B, L, vocab), or (B, L, states), whose column for the mask is not read.
            x: the state that they were predicted at, int64 (B, L).

        Returns:
            Log-probabilities of the clean tokens, (B, L, vocab), float32 at least.
        """
        require(
            raw.dim() == 3 and raw.shape[:2] == x.shape and raw.shape[2] in (self.vocab, self.states),
            f"Logits of {self.vocab} tokens at states of shape {tuple(x.shape)} can't have the shape "
            f"{tuple(raw.shape)}.",
        )
        return at_least_float32(raw[..., : self.vocab]).log_softmax(-1)

    def including(self, log_probs: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """``log p(x_0 | x_t)`` per position from ``log p(x_0 | all other positions)``: the evidence of the
        position's own token is added.

        Arguments:
            log_probs: leave-one-out log-probabilities of the clean tokens, (B, L, vocab).
            x_t: the state, int64 (B, L).
            t: times in [0, 1], (B,) or (B, L).

        Returns:
            Log-probabilities, (B, L, vocab) float64.
        """
        return log_probs.double()

    def excluding(self, log_probs: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The inverse of :meth:`including`: the evidence of the position's own token is taken away.

        Arguments:
            log_probs: log-probabilities of the clean tokens given the whole state, (B, L, vocab).
            x_t: the state, int64 (B, L).
            t: times in [0, 1], (B,) or (B, L).

        Returns:
            Leave-one-out log-probabilities, (B, L, vocab) float64.
        """
        return log_probs.double()

    def posterior(self, log_probs: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """``log q(x_s | x_t)`` if ``x_0`` is distributed as ``log_probs``.

        Arguments:
            log_probs: log-probabilities of the clean tokens, (B, L, vocab): a network's prediction, or a
                one-hot for ``q(x_s | x_t, x_0)``.
            x_t: the state at ``t``, int64 (B, L).
            t: times in (0, 1], (B,).
            s: earlier times in [0, t], (B,).

        Returns:
            Log-probabilities of the states at ``s``, (B, L, states) float64.
        """
        raise NotImplementedError

    def renoised(self, log_probs: Tensor, s: Tensor) -> Tensor:
        """``log q(x_s)`` if ``x_0`` is distributed as ``log_probs``.

        Arguments:
            log_probs: log-probabilities of the clean tokens, (B, L, vocab).
            s: times in [0, 1], (B,).

        Returns:
            Log-probabilities of the states at ``s``, (B, L, states) float64.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Masked(Tokens):
    """Absorbing tokens: a replaced one becomes the mask, token ``vocab``, and what is visible is true.

    A position shows nothing or the truth, so that :meth:`including` what it shows changes nothing.
    """

    name = "masked"

    @property
    def mask(self) -> int:
        """The mask's number."""
        return self.vocab

    @property
    def states(self) -> int:
        return self.vocab + 1

    def instead(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.mask, dtype=torch.long)

    def read(self, raw: Tensor, x: Tensor) -> Tensor:
        """The three rules SUBS (Sahoo et al., 2024, section 3.2.3): no logit for the mask, normalised, and a
        visible token is itself."""
        pred, hidden = super().read(raw, x), x == self.mask
        return torch.where(hidden[..., None], pred, one_hot(x.masked_fill(hidden, 0), self.vocab, pred.dtype))

    def posterior(self, log_probs: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """A mask becomes token ``v`` with probability ``p_v (alpha_s - alpha_t) / (1 - alpha_t)``; what is
        visible stays."""
        high, low = over_tokens(self.sigma, t), over_tokens(self.sigma, s)
        stays = torch.where(high > 0, low / high, torch.ones_like(high))
        shape = (*x_t.shape, 1)
        step = torch.cat([log_probs.double() + torch.log1p(-stays), stays.log().expand(shape)], -1)
        return torch.where((x_t == self.mask)[..., None], step, one_hot(x_t, self.states))

    def renoised(self, log_probs: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = over_tokens(self.alpha, s), over_tokens(self.sigma, s)
        return torch.cat([log_probs.double() + alpha.log(), sigma.log().expand(*log_probs.shape[:2], 1)], -1)


@dataclass(frozen=True)
class Uniform(Tokens):
    """Uniform tokens: a replaced one becomes any of the ``vocab``, its own among them, and every token can be
    revised at every step.

    The prediction that the loss and the steps take is the *leave-one-out* one, ``p(x_0 | x_t without the
    position itself)``; :meth:`including` makes ``p(x_0 | x_t)`` of it.
    """

    name = "uniform_tokens"

    def instead(self, u: Tensor) -> Tensor:
        return (u * self.vocab).long().clamp(0, self.vocab - 1)

    def _own(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``log (1 - alpha + V alpha e_z)`` with ``z = x_t``: how much likelier ``z`` is where the position
        shows it."""
        alpha, sigma = (
            over_tokens(self.alpha, t),
            over_tokens(self.sigma, t).clamp_min(torch.finfo(torch.float64).tiny),
        )
        shown = torch.zeros((*x_t.shape, self.vocab), dtype=torch.bool, device=x_t.device).scatter(
            -1, x_t[..., None], True
        )
        return torch.where(shown, (sigma + self.vocab * alpha).log(), sigma.log())

    def including(self, log_probs: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return (log_probs.double() + self._own(x_t, t)).log_softmax(-1)

    def excluding(self, log_probs: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return (log_probs.double() - self._own(x_t, t)).log_softmax(-1)

    def posterior(self, log_probs: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """With ``z = x_t``, ``r = alpha_t / alpha_s`` (Schiff et al., 2024, arXiv 2412.10193, eq. 19), and
        ``p`` leave-one-out:

        ``[alpha_t V p e_z + (r - alpha_t) e_z + (alpha_s - alpha_t) p + (1 - r)(1 - alpha_s) / V] / (alpha_t
        V p_z + 1 - alpha_t)``.
        """
        p, V = log_probs.double(), self.vocab
        a_t, a_s, high, low = (over_tokens(f, v) for f in (self.alpha, self.sigma) for v in (t, s))
        gap = high - low
        anywhere = torch.logaddexp(gap.log() + p, (gap / a_s * low / V).log())
        signal = a_t.log() + math.log(V) + p.gather(-1, x_t[..., None])
        here = torch.logaddexp(signal, (a_t / a_s * low).log())
        stays = torch.logaddexp(anywhere.gather(-1, x_t[..., None]), here)
        return anywhere.scatter(-1, x_t[..., None], stays) - torch.logaddexp(signal, high.log())

    def renoised(self, log_probs: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = over_tokens(self.alpha, s), over_tokens(self.sigma, s)
        return torch.logaddexp(log_probs.double() + alpha.log(), (sigma / self.vocab).log())


def of_tokens(process: Process) -> Tokens:
    """``process``, if it is one of tokens; otherwise :class:`StillhouseError`."""
    return required_type(
        process, Tokens, f"This works on tokens, not on states of the process '{process.name}'."
    )


def of_masks(process: Process) -> Masked:
    """``process``, if its tokens are masked; otherwise :class:`StillhouseError`."""
    return required_type(
        process, Masked, f"This works on masked tokens, not on states of the process '{process.name}'."
    )
