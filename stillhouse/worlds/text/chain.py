"""Texts of a Markov chain, of which everything is known: their likelihood, and the exact denoiser by messages
along the chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.discrete import Masked, Tokens, choose, of_tokens, one_hot
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.process import Process
from stillhouse.core.schedules import process_from_config
from stillhouse.core.token_prediction import Logits, TokenPrediction
from stillhouse.forms.views import Display, Texts
from stillhouse.metrics.language import VARIETY, entropy
from stillhouse.metrics.metric import Metric
from stillhouse.worlds.base import World, require_samples

FOLLOWERS = ((0, 5), (3, 4), (0, 1), (0, 4), (0, 3), (1, 2))  # the two likely successors of each state
OFTEN = 0.45
SPLITS = {"train": 20000, "test": 4000}


def default_transition() -> Tensor:
    """Rows (6, 6): two successors with probability 0.45 each, the other four share what is left."""
    rows = torch.full((6, 6), (1 - 2 * OFTEN) / 4, dtype=torch.float64)
    return rows.scatter(1, torch.tensor(FOLLOWERS), OFTEN)


def messages(chain: Tensor, first: Tensor, seen: Tensor) -> Tensor:
    """Leave-one-out predictions of a Markov chain: forward and backward messages meet at a position without
    its own evidence.

    Arguments:
        chain: log transition probabilities, (V, V).
        first: log probabilities of the first letter, (V,).
        seen: log likelihood of the evidence at each position, (B, L, V).

    Returns:
        ``log p(x^l | evidence at all other positions)``, normalised, (B, L, V).
    """
    length = seen.shape[1]
    ahead, behind = [first.expand(len(seen), -1)], [torch.zeros_like(seen[:, 0])]
    for step in range(length - 1):
        ahead.append(torch.logsumexp((ahead[-1] + seen[:, step])[:, :, None] + chain, 1).log_softmax(-1))
        behind.append(
            torch.logsumexp((behind[-1] + seen[:, length - 1 - step])[:, None, :] + chain, 2).log_softmax(-1)
        )
    return (torch.stack(ahead, 1) + torch.stack(behind[::-1], 1)).log_softmax(-1)


class ChainDenoiser(ExactDenoiser):
    """The exact denoiser of a chain's texts under a token process, by forward-backward in float64.

    Its estimate is ``p(x_0 | x_t without the position itself)``, which both processes need; at a mask that is
    ``p(x_0 | x_t)``.
    """

    prediction = TokenPrediction
    chain: Tensor
    first: Tensor

    def __init__(self, process: Tokens, chain: Tensor, first: Tensor):
        super().__init__(process)
        self.kind = Logits()
        self.register_buffer("chain", chain.log())
        self.register_buffer("first", first.log())

    def mean(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The leave-one-out prediction.

        Arguments:
            x_t: tokens, (B, L) int64.
            t: times in [0, 1], (B,).
            cond: None, for texts have no labels and no prompts.

        Returns:
            Log-probabilities, (B, L, V) float64.

        Raises:
            StillhouseError: for any condition.
        """
        process = of_tokens(self.process)
        require(
            cond is None,
            "A chain's texts have no labels and no prompts, so that their denoiser takes no condition.",
        )
        if isinstance(process, Masked):
            hidden = x_t == process.mask
            seen = torch.where(hidden[..., None], 0.0, one_hot(x_t.masked_fill(hidden, 0), process.vocab))
        else:
            seen = process.renoised(
                one_hot(x_t, process.vocab), t
            )  # q(z | x_0) is symmetric in its two tokens
        return messages(self.chain, self.first, seen)


class Chain(World):
    """Texts of ``length`` letters that a Markov chain writes, the first one uniform. ``transition``: its
    rows, by default those of six letters with two likely successors each, 1.144 nats a letter. ``process``:
    of networks trained here, ``masked`` or ``uniform_tokens``."""

    name = "text"
    metrics = (
        Metric("nll", "low", "nats a token", "of samples under the true chain", "Negative log-likelihood"),
        *VARIETY,
    )
    infinite = True
    default_kind = "logits"
    network_defaults: dict[str, Any]

    def __init__(
        self, process: str = "masked", transition: Sequence[Sequence[float]] | None = None, length: int = 12
    ):
        of_tokens(process_from_config({"name": process}))
        rows = (
            default_transition() if transition is None else torch.as_tensor(transition, dtype=torch.float64)
        )
        square = rows.dim() == 2 and rows.shape[0] == rows.shape[1] and len(rows) >= 2
        require(
            square,
            "A chain's transitions are a square table of at least 2 x 2, not one of shape "
            f"{tuple(rows.shape)}.",
        )
        sums = bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-6).all())
        require(sums, "Every row of a chain's transitions holds probabilities that add up to 1.")
        require(length >= 2, f"A chain's texts have at least 2 letters, not {length}.")
        self.chain, self.vocab, self.shape = rows / rows.sum(1, keepdim=True), len(rows), (length,)
        self.first = torch.full((self.vocab,), 1 / self.vocab, dtype=torch.float64)
        self.default_process = {"name": process, "vocab": self.vocab}
        self.network_defaults = {
            "name": "onehot",
            "vocab": self.vocab,
            "length": length,
            "width": 128,
            "depth": 2,
        }

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fresh texts.

        Arguments:
            n: texts to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: not read; texts have none.

        Returns:
            Texts, (n, length) int64, and labels of -1, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        u = draws.uniform(0.0, 1.0, *self.shape, dtype=torch.float64)
        first, chain = self.first.log().to(u.device), self.chain.log().to(u.device)
        letters = [choose(first.expand(n, -1), u[:, 0])]
        for place in range(1, *self.shape):
            letters.append(choose(chain[letters[-1]], u[:, place]))
        return torch.stack(letters, 1), torch.full((n,), -1, device=u.device)

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """20,000 texts to train on, 4,000 to test with; the same ones every time."""
        require(split in SPLITS, f"A world has the splits 'train' and 'test', not '{split}'.")
        return self.sample_data(SPLITS[split], Draws(SPLITS[split], "chain", split))

    def exact(self, process: Process) -> ChainDenoiser:
        """The exact denoiser under a token process of this vocabulary."""
        tokens = of_tokens(process)
        require(
            tokens.vocab == self.vocab,
            f"These texts have {self.vocab} letters; the process has a vocabulary of {tokens.vocab}.",
        )
        return ChainDenoiser(tokens, self.chain, self.first)

    def network(
        self,
        process: Process,
        seed: int = 0,
        *,
        kind: str = "logits",
        two_time: bool = False,
        guidance_input: bool = False,
        **options: Any,
    ) -> Denoiser:
        """A small untrained MLP on one-hot letters, conditioned on the time unless the masks determine it.

        Arguments:
            process: that it is trained on.
            seed: of its initial weights.
            kind: what it predicts.
            two_time: whether it takes the time ``s`` at which a jump ends.
            guidance_input: whether it takes a guidance scale.
            options: of the network, over this world's defaults; with ``name`` another network.

        Returns:
            The network as a :class:`Denoiser`.
        """
        own = (
            {}
            if "name" in options
            else {"states": of_tokens(process).states, "timed": not isinstance(process, Masked)}
        )
        return super().network(
            process, seed, kind=kind, two_time=two_time, guidance_input=guidance_input, **{**own, **options}
        )

    @property
    def display(self) -> Display:
        return Display(show=self._read)

    def _read(self, samples: Tensor, labels: Tensor | None = None) -> Texts:
        """Samples (B, length) as words of the letters a, b, c …; what is no letter is an underscore."""
        rows = samples.tolist()
        return Texts(
            ["".join(chr(ord("a") + v) if 0 <= v < self.vocab else "_" for v in row) for row in rows]
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log-likelihood of texts (B, L), in nats, shape (B,); -inf for what the chain never writes."""
        chain, first = self.chain.log().to(x.device), self.first.log().to(x.device)
        return first[x[:, 0]] + chain[x[:, :-1], x[:, 1:]].sum(1)

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """The likelihood of texts under the chain, and their variety.

        ``nll``: mean negative log-likelihood, nats a letter; ``entropy`` of letters and ``bigram_entropy`` of
        pairs of neighbours, nats.

        Arguments:
            samples: texts, at least 4, (B, length) int64.
            labels: not read; texts have none.
            generator: not read; nothing here is random.

        Returns:
            Values by name.
        """
        require_samples(self, samples, labels)
        require(
            int(samples.min()) >= 0 and int(samples.max()) < self.vocab,
            f"Letters have the numbers 0 … {self.vocab - 1}.",
        )
        return {
            "nll": float(-self.log_prob(samples).mean() / self.shape[0]),
            "entropy": entropy(samples, self.vocab),
            "bigram_entropy": entropy(samples, self.vocab, 2),
        }
