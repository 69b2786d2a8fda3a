"""Texts as files: samples out, one a line; a user's own prose in, cut into rows of tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path, PurePath

import torch
from torch import Tensor

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.data.files import walk
from stillhouse.io.data.splits import TRAIN, places
from stillhouse.io.weights import atomic_write
from stillhouse.models.letters import GAP, Tokenizer

log = logging.getLogger("stillhouse")


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


def text_files(path: str | Path) -> tuple[list[Path], list[Path]]:
    """The texts at a path.

    Arguments:
        path: a .txt file, or a folder of such, also in folders below it.

    Returns:
        Those to learn from in the order of their names, and those that are held out or lie beside the splits:
        ``valid.txt`` where there is a ``train.txt``.
    """
    path = Path(path)
    if not path.is_dir():
        return [path], []
    files = [file for file in walk(path)[0] if file.suffix.lower() == ".txt"]
    splits = places([PurePath(file.relative_to(path)) for file in files], by_name=True)
    learnt = [f for f in files if splits[PurePath(f.relative_to(path))].split in ("", TRAIN)]
    return learnt, [file for file in files if file not in learnt]


def read_text(path: str | Path) -> str:
    """The text of a .txt file, or of all those in a folder that are to be learnt from, in the order of their
    names."""
    files, held = text_files(path)
    require(bool(files), f"The folder '{path}' holds no .txt file to learn a language from.")
    if held:
        log.warning(
            "left out of '%s': %d text(s) that are not to be learnt from (%s).",
            path,
            len(held),
            ", ".join(file.relative_to(path).as_posix() for file in held[:3]) + ", …" * (len(held) > 3),
        )
    try:
        return "\n".join(file.read_text("utf-8-sig") for file in files)
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
