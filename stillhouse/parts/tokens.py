"""Losses of token processes: the likelihood bound that trains a model, and how far two predictions lie apart."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.conditions import Condition
from stillhouse.denoiser import Denoiser
from stillhouse.discrete import Masked, Tokens, at_token, of_tokens, of_words, over_tokens
from stillhouse.draws import Draws
from stillhouse.process import Process

DIVERGENCES = ("reverse_kl", "forward_kl", "absolute", "squared")
FLOOR = -30.0  # a target's logarithm of "never"


def stratified(process: Process, draws: Draws) -> Tensor:
    """Times (rows,), one in each of as many strata of ``[t_min, 1)`` as the whole batch has rows, float64.

    ``t_i = (u + i / B) mod 1`` with one ``u`` for all: the bound's variance over times all but vanishes.
    """
    rows = draws.rows * draws.world
    place = torch.arange(draws.rows, device=draws.device, dtype=torch.float64) + draws.rank * draws.rows
    return process.t_min + (1 - process.t_min) * ((draws.one_uniform() + place / rows) % 1)


def noised(process: Process, x: Tensor, t: Tensor, draws: Draws) -> Tensor:
    """Clean tokens ``x`` (B, L) at ``t`` (B,)."""
    return process.noise(x, t, draws.uniform(0.0, 1.0, *x.shape[1:], dtype=torch.float64))


def nelbo(denoiser: Denoiser, x: Tensor, t: Tensor, draws: Draws, cond: Condition = None) -> Tensor:
    """The bound on the negative log-likelihood of clean tokens ``x`` (B, L), in nats a token, at times ``t`` (B,).

    Its mean over uniform times is the bound in continuous time. Masked: ``alpha' / (1 - alpha) log D(x_0)`` at masks (Sahoo et al., 2024,
    arXiv 2406.07524, eq. 10). Uniform: :func:`uniform_bound`.
    """
    process = of_tokens(denoiser.process)
    x_t = noised(process, x, t, draws)
    log_probs = of_words(denoiser(x_t, t, cond)).log_probs
    if isinstance(process, Masked):
        weight = over_tokens(process.dsigma, t) / over_tokens(process.sigma, t)
        surprise = -at_token(log_probs, x)
        return (weight[..., 0] * torch.where(x_t == process.mask, surprise, torch.zeros_like(surprise))).mean()
    return uniform_bound(process, log_probs, x, x_t, t).mean()


def uniform_bound(process: Tokens, log_probs: Tensor, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The uniform process's bound per token (B, L), in nats, of leave-one-out predictions ``log_probs`` (B, L, V).

    With ``a = V alpha e_{x_0} + 1 - alpha``, ``b`` the same of the prediction and ``z = x_t``: ``alpha' / (V alpha) [V / a_z - V / b_z -
    sum_j (a_j / a_z) log(b_z a_j / (b_j a_z))]`` (Schiff et al., 2024, arXiv 2412.10193, eq. 21). All of ``a`` but one entry is alike.
    """
    V = process.vocab
    alpha, sigma, fall = (over_tokens(f, t) for f in (process.alpha, process.sigma, process.dalpha))
    alpha = alpha.clamp_min(1e-12)  # where nothing is left of the text the bound is 0, as 0 times infinity
    b = torch.logaddexp(log_probs.double() + (V * alpha).log(), sigma.log())
    b_z, b_0 = at_token(b, x_t), at_token(b, x)
    alpha, sigma, fall = (v[..., 0] for v in (alpha, sigma, fall))
    low, high = sigma.log(), (V * alpha + sigma).log()
    a_z = torch.where(x_t == x, high, low)
    ratios = (b_z - a_z)[..., None] - b  # log(b_z / (b_j a_z)), to which log a_j is added
    others = (low - a_z).exp() * (ratios.sum(-1) - at_token(ratios, x) + (V - 1) * low)
    own = (high - a_z).exp() * (b_z - b_0 + high - a_z)
    return fall / (V * alpha) * (V * (-a_z).exp() - V * (-b_z).exp() - others - own)


def divergence(name: str, said: Tensor, target: Tensor) -> Tensor:
    """How far the log-probabilities ``said`` (…, V) lie from the fixed ``target`` (…, V), one number each (…): one of :data:`DIVERGENCES`.

    ``reverse_kl``: ``sum D (log D - g)``, whose best answer to several targets is their normalised geometric mean; ``forward_kl``:
    ``sum e^g (g - log D)``, whose best answer is their mean; ``absolute`` and ``squared``: of the logarithms' differences, summed. Targets
    below ``e^-30`` count as that.
    """
    target = target.clamp_min(FLOOR)
    gap = said - target
    if name == "reverse_kl":
        return (said.exp() * gap).sum(-1)
    if name == "forward_kl":
        return -(target.exp() * gap).sum(-1)
    return gap.abs().sum(-1) if name == "absolute" else gap.square().sum(-1)


def over_replaced(process: Process, values: Tensor, rows: int, length: int) -> Tensor:
    """The sum of ``values``, one for each replaced token among (rows, length), over the number that uniform times lead one to expect.

    A batch's own number would weigh the parts of an accumulated batch unevenly, whose times lie apart.
    """
    times = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    return values.sum() / (rows * length * float(process.sigma(times).mean()))
