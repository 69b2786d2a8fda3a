"""``text``: tokens in a row. English prose, character by character, or a Markov chain whose denoiser is known
exactly."""

from __future__ import annotations

from functools import cached_property
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser, ExactDenoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.core.process import Process
from stillhouse.forms.views import Display, Texts
from stillhouse.metrics.language import DISTINCT, PERPLEXITY, VARIETY, NGram, distinct, entropy
from stillhouse.models import build_model
from stillhouse.models.letters import Letters, texts_of
from stillhouse.worlds.base import World, require_samples
from stillhouse.worlds.text.letters import corpus, letters, word_starts

KINDS = ("bytes", "chain")
PROCESSES = ("masked", "uniform_tokens")
SIZES = {"train": 8192, "test": 1024}  # windows of the finite sets


class Text(World):
    """Windows of English prose, int64 tokens (length,): small letters, digits and nine marks, each window
    from the start of a word.

    The prose is that of the docstrings and help of Python, NumPy, SciPy and scikit-learn, found where they
    are installed; another version of one of them makes slightly other text. A tenth of the documents is held
    out as the split ``test``.
    """

    name = "text"
    metrics = (PERPLEXITY, *VARIETY, DISTINCT)
    infinite = True
    default_kind = "logits"
    tokenizer: Letters
    network_defaults = {"name": "token_transformer", "dim": 128, "depth": 4, "heads": 4}

    def __init__(self, process: str = "masked", length: int = 64):
        require(8 <= length <= 1024, f"A text of this world has 8 to 1024 characters, not {length}.")
        if process not in PROCESSES:
            raise unknown("process of tokens", process, PROCESSES)
        self.tokenizer, self.shape = letters(), (length,)
        self.vocab, self.default_process = (
            self.tokenizer.size,
            {"name": process, "vocab": self.tokenizer.size},
        )

    def _windows(self, split: str, n: int, draws: Draws) -> Tensor:
        require(split in SIZES, f"A world has the splits 'train' and 'test', not '{split}'.")
        (length,) = self.shape
        starts = word_starts(split, length)
        first = starts[(draws.uniform(dtype=torch.float64).cpu() * len(starts)).long()]
        return corpus()[split][first[:, None] + torch.arange(length)].long()

    def sample_data(self, n: int, draws: Draws, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Windows of the training text.

        Arguments:
            n: windows to draw, as many as ``draws`` has rows.
            draws: the source of randomness.
            labels: not read; texts have none.

        Returns:
            Tokens, (n, length) int64, and labels of -1, (n,).
        """
        require(draws.rows == n, f"Asked for {n} samples with draws for {draws.rows}.")
        return self._windows("train", n, draws).to(draws.device), torch.full((n,), -1, device=draws.device)

    def data(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """A fixed set of windows: 8,192 of the training text, 1,024 of the held-out one; labels of -1."""
        require(split in SIZES, f"A world has the splits 'train' and 'test', not '{split}'.")
        n = SIZES[split]
        return self._windows(split, n, Draws(n, "text", split)), torch.full((n,), -1)

    def exact(self, process: Process) -> ExactDenoiser:
        raise StillhouseError(
            "English has no closed form; take a trained teacher, or the world text with kind: chain, whose "
            "denoiser is exact."
        )

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
        """An untrained :class:`stillhouse.models.tokens.TokenTransformer`, conditioned on the time unless the
        process is the masked one.

        Arguments:
            process: of tokens, that it is trained on.
            seed: of its initial weights.
            kind: what it predicts.
            two_time: only False; a network of tokens takes no second time.
            guidance_input: only False; a network of tokens takes no guidance scale.
            options: of the network (``dim``, ``depth``, ``heads`` …), over this world's defaults.

        Returns:
            The network as a :class:`Denoiser`.

        Raises:
            StillhouseError: for classes, a second time, a guidance scale or a process of numbers.
        """
        require(
            not two_time and not guidance_input,
            "A network of tokens takes neither a second time nor a guidance scale.",
        )
        require(not options.pop("classes", 0), "The texts of this world have no classes.")
        require(
            process.discrete,
            f"Texts are tokens; process '{process.name}' is one of numbers. Take masked or uniform_tokens.",
        )
        own = {"vocab": self.vocab, "length": self.shape[0], "timed": process.name != "masked"}
        usual = (
            self.network_defaults if options.get("name", "token_transformer") == "token_transformer" else {}
        )
        return Denoiser(build_model({**usual, **own, **options}, seed), process, kind)

    @cached_property
    def grams(self) -> NGram:
        """The 5-gram model of the training text."""
        return NGram(corpus()["train"].long(), self.vocab)

    def measure(
        self, samples: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> dict[str, float]:
        """How likely texts are, and how varied.

        ``perplexity`` of a token under a 5-gram model of the training text; against collapse ``entropy`` and
        ``bigram_entropy`` in nats, and ``distinct``, the share of different runs of 8.

        Arguments:
            samples: tokens, at least 4, (B, length) int64.
            labels: not read; texts have none.
            generator: not read; nothing here is random.

        Returns:
            Values by name.
        """
        require_samples(self, samples, None)
        tokens = samples.cpu().long()
        require(
            int(tokens.min()) >= 0 and int(tokens.max()) < self.vocab,
            f"Tokens of this world lie in 0 … {self.vocab - 1}.",
        )
        varied = {"entropy": entropy(tokens, self.vocab), "bigram_entropy": entropy(tokens, self.vocab, 2)}
        return {
            "perplexity": self.grams.perplexity(tokens),
            **varied,
            "distinct": distinct(tokens, self.vocab, 8),
        }

    def floor(self, n: int, seed: int = 0) -> dict[str, float]:
        """The metrics of windows of the held-out text.

        Arguments:
            n: number of windows.
            seed: of their draws.

        Returns:
            What :meth:`measure` returns for them.
        """
        return self.measure(self._windows("test", n, Draws(n, "floor", seed)))

    @property
    def display(self) -> Display:
        return Display(show=self._read)

    def _read(self, samples: Tensor, labels: Tensor | None = None) -> Texts:
        """The texts of tokens (B, length)."""
        return Texts(texts_of(self.tokenizer, samples))


def make_text(kind: str = "bytes", process: str = "masked", **options: Any) -> World:
    """The world of texts of one kind.

    Arguments:
        kind: ``bytes``, English prose; ``chain``, a Markov chain.
        process: of the networks trained there, ``masked`` or ``uniform_tokens``.
        options: ``length`` in tokens; of a chain ``transition`` as well.

    Returns:
        The world.
    """
    if kind not in KINDS:
        raise unknown("kind of text", kind, KINDS)
    if kind == "bytes":
        return Text(process, **options)
    from stillhouse.worlds.text.chain import Chain

    world = Chain(process, **options)
    if world.vocab <= len(ascii_lowercase):
        world.tokenizer = Letters(ascii_lowercase[: world.vocab])
    return world
