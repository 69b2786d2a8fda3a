"""Texts as files: samples out, one a line; a user's own prose in, cut into rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.weights import atomic_write
from stillhouse.models.letters import GAP, Tokenizer


def save_texts(path: str | Path, texts: Sequence[str]) -> Path:
    """Write texts, one a line.

    Arguments:
        path: ending in ``.txt``.
        texts: a line break within one becomes a space.

    Returns:
        Where they are.
    """
    path = Path(path)
    require(path.suffix == ".txt", f"Texts are written as .txt, not '{path.suffix}'.")
    atomic_write(path, "".join(" ".join(text.splitlines()) + "\n" for text in texts).encode())
    return path


def read_text(path: str | Path) -> str:
    """The text of a .txt file, or of all those in a folder, in the order of their names."""
    path = Path(path)
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    require(bool(files), f"The folder '{path}' holds no .txt file to learn a language from.")
    try:
        return "\n".join(file.read_text("utf-8") for file in files)
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise StillhouseError(f"'{path}' can't be read as text: {reason}.") from error


def token_rows(text: str, tokenizer: Tokenizer, length: int) -> Tensor:
    """A text as rows of tokens, one behind the other; the rest is left out.

    Arguments:
        text: of any length; white space becomes single spaces.
        tokenizer: of the model.
        length: tokens of a row.

    Returns:
        Rows, (N, length) int64; raises :class:`StillhouseError` where the text has a character without a
        token, or too few for one row.
    """
    # an underscore in running text is a mark like others, and no gap
    tokens = tokenizer.encode(" ".join(text.replace(GAP, " ").split()))
    n = len(tokens) // length
    require(n > 0, f"The text has {len(tokens)} tokens, fewer than one row of {length}.")
    return torch.tensor(tokens[: n * length]).reshape(n, length)
