"""The likelihood bound of token processes, which trains a model and measures it (in nats a token)."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.discrete import Masked, Tokens, at_token, of_tokens, over_tokens
from stillhouse.core.draws import Draws
from stillhouse.core.process import Process
from stillhouse.core.token_prediction import of_words


def stratified(process: Process, draws: Draws) -> Tensor:
    """Stratified times: one in each of as many strata of ``[t_min, 1)`` as the whole batch has rows.

    ``t_i = t_min + (1 - t_min) ((u + i / B) mod 1)`` with one ``u`` for all: the bound's variance over times
    all but vanishes.

    Arguments:
        process: whose ``t_min`` is the least time.
        draws: the source of randomness.

    Returns:
        Times, (rows,) float64.
    """
    rows = draws.rows * draws.world
    place = torch.arange(draws.rows, device=draws.device, dtype=torch.float64) + draws.rank * draws.rows
    return process.t_min + (1 - process.t_min) * ((draws.one_uniform() + place / rows) % 1)


def noised(process: Process, x: Tensor, t: Tensor, draws: Draws) -> Tensor:
    """Clean tokens noised to ``t``.

    Arguments:
        process: a token process.
        x: clean tokens, int64 (B, L).
        t: times in [0, 1], (B,).
        draws: the source of randomness, of B rows.

    Returns:
        The state at ``t``, int64 (B, L).
    """
    return process.noise(x, t, draws.uniform(0.0, 1.0, *x.shape[1:], dtype=torch.float64))


def nelbo(denoiser: Denoiser, x: Tensor, t: Tensor, draws: Draws, cond: Condition = None) -> Tensor:
    """The bound on the negative log-likelihood of clean tokens, in nats a token.

    Its mean over uniform times is the bound in continuous time. Masked: ``alpha' / (1 - alpha) log D(x_0)``
    at masks (Sahoo et al., 2024, arXiv 2406.07524, eq. 10). Uniform: :func:`uniform_bound`.

    Arguments:
        denoiser: a denoiser of tokens.
        x: clean tokens, int64 (B, L).
        t: times in (0, 1], (B,).
        draws: the source of randomness, of B rows.
        cond: the condition of the B rows; None for none.

    Returns:
        The mean over tokens and rows, a scalar that gradients flow through.

    Raises:
        StillhouseError: for a denoiser of anything but tokens.
    """
    process = of_tokens(denoiser.process)
    x_t = noised(process, x, t, draws)
    log_probs = of_words(denoiser(x_t, t, cond)).log_probs
    if isinstance(process, Masked):
        weight = over_tokens(process.dsigma, t) / over_tokens(process.sigma, t)
        surprise = -at_token(log_probs, x)
        return (
            weight[..., 0] * torch.where(x_t == process.mask, surprise, torch.zeros_like(surprise))
        ).mean()
    return uniform_bound(process, log_probs, x, x_t, t).mean()


def uniform_bound(process: Tokens, log_probs: Tensor, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The uniform process's bound per token, in nats, of leave-one-out predictions.

    With ``a = V alpha e_{x_0} + 1 - alpha``, ``b`` the same of the prediction and ``z = x_t``: ``alpha' / (V
    alpha) [V / a_z - V / b_z - sum_j (a_j / a_z) log(b_z a_j / (b_j a_z))]`` (Schiff et al., 2024, arXiv
    2412.10193, eq. 21). All of ``a`` but one entry is alike.

    Arguments:
        process: a uniform token process of ``V`` tokens.
        log_probs: leave-one-out log-probabilities of the clean tokens, (B, L, V).
        x: clean tokens, int64 (B, L).
        x_t: the state at ``t``, int64 (B, L).
        t: times in (0, 1], (B,).

    Returns:
        The bound at each position, (B, L).
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
