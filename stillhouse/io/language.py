"""Masked language models of Hugging Face Transformers as models of ours: a folder of config, safetensors and
tokenizer, in and out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.discrete import Masked
from stillhouse.core.errors import StillhouseError, extra, require
from stillhouse.io.checked import ABOUT, json_of
from stillhouse.models.letters import GAP, SHOWN

CONFIG = "config.json"
LENGTH = 128  # tokens of a text by default
# what is kept with a student
KEPT = {"samplings?": {"*": dict}, "free_steps?": bool, "world?": str, "info?": dict, "length?": int}
NEVER = -1e4  # a logit: no probability at all, and yet a number that 0 can be multiplied by


class Pretrained:
    """A tokenizer of Transformers, our mask beside its own tokens. ``size``: how many there are, which is the
    mask's number."""

    def __init__(self, tokenizer: Any, size: int):
        self.theirs, self.size = tokenizer, size

    def encode(self, text: str) -> list[int]:
        """Tokens of ``text``, each ``_`` a mask; raises :class:`StillhouseError` for a word that the
        tokenizer does not have."""
        found = self._tokens(text)
        unknown = self.theirs.unk_token_id
        if unknown is not None and unknown in found:
            word = next((w for w in text.replace(GAP, " ").split() if unknown in self._tokens(w)), text)
            raise StillhouseError(
                f"The model's tokenizer has no token for '{word}' in '{text}'; use other words."
            )
        return [self.size if token == self.theirs.mask_token_id else token for token in found]

    def _tokens(self, text: str) -> list[int]:
        masked = text.replace(GAP, self.theirs.mask_token)
        tokens: list[int] = self.theirs.encode(masked, add_special_tokens=False)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``."""
        theirs = [self.theirs.mask_token_id if token == self.size else token for token in tokens]
        text: str = self.theirs.decode(theirs).replace(self.theirs.mask_token, SHOWN)
        return text

    def describe(self) -> dict[str, Any]:
        """Plain data for reports; the tokenizer itself is saved beside the weights."""
        return {"name": "pretrained", "class": type(self.theirs).__name__, "size": self.size}


@dataclass
class MaskedCall:
    """How a masked language model is called: our mask (token ``size``) as its own, its start and end tokens
    around the text.

    Arguments:
        size: number of tokens, and our mask.
        mask: its own mask.
        unreal: tokens that no text holds (padding, start, end, its mask …), which get a probability of 0.
        before: tokens before a text.
        after: tokens behind it.
    """

    size: int
    mask: int
    unreal: tuple[int, ...]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __call__(self, net: nn.Module, x: Tensor, t: Tensor, cond: Condition, **extra: Tensor) -> Tensor:
        """Logits (B, L, size) at the tokens ``x`` (B, L); the time has no effect."""
        require(cond is None and not extra, "A masked language model takes no condition beside its text.")
        ends = [x.new_tensor(tokens).expand(len(x), -1) for tokens in (self.before, self.after)]
        ids = torch.cat([ends[0], x.masked_fill(x == self.size, self.mask), ends[1]], 1)
        logits: Tensor = net(input_ids=ids).logits[:, len(self.before) : ids.shape[1] - len(self.after)]
        return logits.index_fill(-1, torch.tensor(self.unreal, device=x.device), NEVER)


def is_language(folder: Path) -> bool:
    """Whether ``folder`` holds a masked language model: its configuration names an architecture that ends
    so."""
    return any(name.endswith("ForMaskedLM") for name in _config(folder).get("architectures") or ())


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json_of(folder / CONFIG, {"architectures?": ([str], None)})
    except StillhouseError:
        return {}
    return config


def open_language(
    folder: Path, length: int | None = None
) -> tuple[Denoiser, Pretrained, int, dict[str, Any]]:
    """Open a masked language model of Transformers.

    Arguments:
        folder: with ``config.json``, ``*.safetensors`` and the tokenizer's files.
        length: tokens of a text; None: as saved, or 128, if the model reads as many.

    Returns:
        The denoiser, its tokenizer, the length of its texts, and what :func:`save_language` kept with it.

    Raises:
        StillhouseError: the weights are a pickle, the folder has code of its own or no tokenizer, the
            tokenizer no mask, or texts are too long.
    """
    transformers = extra("transformers", "language")
    config = _config(folder)
    require(
        "auto_map" not in config and not list(folder.glob("*.py")),
        f"The model in '{folder}' brings code of its own, which is not run.",
    )
    require(
        any(folder.glob("*.safetensors")),
        f"The folder '{folder}' has no *.safetensors (a pickle is not opened); load it where you trust it, "
        "and call its save_pretrained.",
    )
    spoken = [file for pattern in ("tokenizer*", "vocab*", "*.model") for file in folder.glob(pattern)]
    require(bool(spoken), f"The folder '{folder}' has no tokenizer; save one beside the model.")
    about = json_of(folder / ABOUT, KEPT) if (folder / ABOUT).is_file() else {}
    with hushed(transformers):
        try:
            net = (
                transformers.AutoModelForMaskedLM.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True
                )
                .float()
                .eval()
            )
            theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise StillhouseError(
                f"Transformers can't open the masked language model '{folder}': {reason}"
            ) from error
    require(theirs.mask_token is not None, f"The tokenizer in '{folder}' has no mask token.")
    size, (before, after) = net.config.vocab_size, _frame(theirs)
    require(
        len(theirs) <= size,
        f"The tokenizer in '{folder}' has {len(theirs)} tokens, the model only {size}; they don't belong "
        "together.",
    )
    unreal = sorted({*theirs.all_special_ids, *range(len(theirs), size)})
    most = min(
        theirs.model_max_length, getattr(net.config, "max_position_embeddings", theirs.model_max_length)
    ) - len(before + after)
    length = length or min(about.get("length", LENGTH), most)
    require(1 <= length <= most, f"The model in '{folder}' reads texts of 1 to {most} tokens, not {length}.")
    call = MaskedCall(size, theirs.mask_token_id, tuple(unreal), before, after)
    return Denoiser(net, Masked(size), "logits", call=call), Pretrained(theirs, size), length, about


def _frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a tokenizer puts before and behind a text."""
    inner = tokenizer.encode(tokenizer.mask_token, add_special_tokens=False)
    whole = tokenizer.encode(tokenizer.mask_token)
    start = whole.index(inner[0])
    return tuple(whole[:start]), tuple(whole[start + len(inner) :])


def save_language(folder: Path, denoiser: Denoiser, tokenizer: Pretrained, about: dict[str, Any]) -> Path:
    """Write a folder that ``AutoModelForMaskedLM`` and ``AutoTokenizer`` open as it is, whole or not at all.

    Arguments:
        folder: to write.
        denoiser: of a masked language model.
        tokenizer: saved beside the weights.
        about: plain data that :func:`open_language` gives back, kept as ``stillhouse.json``.

    Returns:
        The folder.
    """
    from stillhouse.io.export.save import forget_places, replace_folder

    net: Any = denoiser.net

    def build(place: Path) -> None:
        with hushed(extra("transformers", "language")):
            net.save_pretrained(place)
            tokenizer.theirs.save_pretrained(place)
        forget_places(place)
        (place / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    replace_folder(folder, build)
    return folder


class hushed:
    """Inside the block Transformers shows no progress bars and no warnings."""

    def __init__(self, transformers: Any):
        self.theirs = transformers.utils.logging

    def __enter__(self) -> None:
        self.level = self.theirs.get_verbosity()
        self.theirs.set_verbosity_error()
        self.theirs.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.theirs.set_verbosity(self.level)
        self.theirs.enable_progress_bar()
