"""What texts of tokens are worth: how likely an n-gram model finds them, how varied they are, how well a
model predicts held-out text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.token_likelihood import nelbo, stratified
from stillhouse.metrics.metric import Metric
from stillhouse.model import Model

PERPLEXITY = Metric("perplexity", "low", "", "of samples, under an n-gram model of the training text")
VARIETY = (
    Metric("entropy", "high", "nats", "of single tokens; falls when texts repeat themselves"),
    Metric("bigram_entropy", "high", "nats", "of pairs of tokens"),
)
DISTINCT = Metric("distinct", "high", "share", "of runs of eight tokens that occur once", "Distinct 8-grams")


def codes(tokens: Tensor, n: int, vocab: int) -> Tensor:
    """Every run of ``n`` tokens as one whole number; raises :class:`StillhouseError` where 62 bits don't
    suffice.

    Arguments:
        tokens: in 0 … vocab - 1, (…, L).
        n: length of a run, 1 … L.
        vocab: different tokens.

    Returns:
        Numbers in 0 … vocab^n - 1, (…, L - n + 1) int64.
    """
    require(vocab**n < 2**62, f"Runs of {n} among {vocab} tokens have no numbers of 62 bits.")
    code, last = tokens.new_zeros(1, dtype=torch.long), tokens.shape[-1] - n + 1
    for i in range(n):
        code = code * vocab + tokens[..., i : i + last].long()
    return code


class NGram:
    """Interpolated n-gram model with absolute discounting (Ney, Essen & Kneser, 1994).

    ``p(w | c) = max(N(cw) - d, 0) / N(c) + d D(c) / N(c) p(w | c')`` with ``D(c)`` the number of different
    tokens seen after ``c``, and ``c'`` the context without its first token; below the unigrams all ``vocab``
    tokens are alike.

    Arguments:
        text: tokens, (N,), more than ``order``.
        vocab: different tokens.
        order: the longest run, at least 1.
        discount: ``d``, in [0, 1].
    """

    def __init__(self, text: Tensor, vocab: int, order: int = 5, discount: float = 0.75):
        require(
            text.dim() == 1 and len(text) > order >= 1,
            f"A model of runs of {order} tokens needs one longer row of them.",
        )
        self.vocab, self.order, self.discount = vocab, order, discount
        self.runs: list[tuple[Tensor, Tensor]] = []
        self.contexts: list[tuple[Tensor, Tensor, Tensor]] = []
        for n in range(1, order + 1):
            run, count = codes(text, n, vocab).unique(return_counts=True)
            context, where, different = (run // vocab).unique(return_inverse=True, return_counts=True)
            self.runs.append((run, count.double()))
            self.contexts.append(
                (
                    context,
                    torch.zeros(len(context), dtype=torch.float64).index_add_(0, where, count.double()),
                    different,
                )
            )

    def log_probs(self, tokens: Tensor) -> Tensor:
        """``log p`` of each of ``tokens`` (B, L) given those before it, (B, L) float64 in nats."""
        p = torch.full(tokens.shape, 1 / self.vocab, dtype=torch.float64)
        for n, (runs, contexts) in enumerate(zip(self.runs, self.contexts, strict=True), 1):
            if n > tokens.shape[1]:
                break
            code = codes(tokens, n, self.vocab)
            count, (total, different) = _looked_up(code, *runs)[0], _looked_up(code // self.vocab, *contexts)
            shorter = p[:, n - 1 :]
            longer = (
                (count - self.discount).clamp_min(0) + self.discount * different * shorter
            ) / total.clamp_min(1)
            p[:, n - 1 :] = torch.where(total > 0, longer, shorter)
        return p.log()

    def perplexity(self, tokens: Tensor) -> float:
        """``exp`` of the mean negative log-probability of a token of ``tokens`` (B, L)."""
        return math.exp(-self.log_probs(tokens).mean().item())


def _looked_up(code: Tensor, known: Tensor, *values: Tensor) -> list[Tensor]:
    """For each number its entries of ``values``, found where it stands in the sorted ``known``; 0 where it
    does not."""
    place = torch.searchsorted(known, code.contiguous()).clamp_max(len(known) - 1)
    return [torch.where(known[place] == code, value[place], 0) for value in values]


def entropy(tokens: Tensor, vocab: int, n: int = 1) -> float:
    """Entropy of the runs of ``n`` tokens in all texts together: it falls when a model's samples collapse.

    Arguments:
        tokens: in 0 … vocab - 1, (B, L).
        vocab: different tokens.
        n: length of a run, 1 … L.

    Returns:
        The entropy in nats, from 0 to n log(vocab).
    """
    share = codes(tokens, n, vocab).unique(return_counts=True)[1].double()
    share = share / share.sum()
    return float(-(share * share.log()).sum())


def distinct(tokens: Tensor, vocab: int, n: int) -> float:
    """The share of different ones among all runs of ``n`` tokens; depends on how many texts there are.

    Arguments:
        tokens: in 0 … vocab - 1, (B, L).
        vocab: different tokens.
        n: length of a run, 1 … L.

    Returns:
        The share, in (0, 1].
    """
    runs = codes(tokens, n, vocab)
    return len(runs.unique()) / runs.numel()


def held_out_bits(model: Model, x: Tensor, *, rounds: int = 4, batch: int = 256, seed: int = 0) -> float:
    """Upper bound on the bits that a model needs for one token of held-out texts: its negative ELBO, times
    stratified.

    A bound for models trained on the ELBO alone, not for students that were sharpened.

    Arguments:
        model: of tokens.
        x: texts, (N, L) int64.
        rounds: how often each text is masked anew.
        batch: texts at a time.
        seed: of times and masks.

    Returns:
        Bits for one token.
    """
    sums = 0.0
    with torch.inference_mode():
        for i in range(rounds):
            for j, rows in enumerate(x.split(batch)):
                draws = Draws(len(rows), seed, "held out", i, j, device=model.denoiser.device)
                t = stratified(model.denoiser.process, draws)
                sums += float(nelbo(model.denoiser.eval(), rows.to(model.denoiser.device), t, draws)) * len(
                    rows
                )
    return sums / (rounds * len(x) * math.log(2))
