"""Prompts from a file, and a share of them kept for validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stillhouse.core.draws import seed_of
from stillhouse.core.errors import require
from stillhouse.io.data.tables import CAPTIONS, captions_of, lines_of, read_table, read_text

PROMPT_FILES = (".txt", ".jsonl", ".csv")


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file, in its order.

    ``.txt``: one a line; blank lines and those that begin with ``#`` are passed over. ``.jsonl`` and
    ``.csv``: the column ``text``, ``caption`` or ``prompt``, a list of several counting as so many. Raises
    :class:`StillhouseError` for a missing, empty or foreign file, naming it.
    """
    path = Path(path)
    require(path.is_file(), f"There is no file of prompts '{path}'.")
    kind = path.suffix.lower()
    require(
        kind in PROMPT_FILES, f"Prompts are read from {', '.join(PROMPT_FILES)} files, not from '{path}'."
    )
    if kind == ".txt":
        lines = (line.strip() for line in lines_of(read_text(path)))
        prompts = [line for line in lines if line and not line.startswith("#")]
    else:
        rows = read_table(path)
        named = not rows or any(name in row for row in rows for name in CAPTIONS)
        require(named, f"'{path}' has no column text, caption or prompt.")
        prompts = [caption for row in rows for caption in captions_of(row)]
    require(bool(prompts), f"The file of prompts '{path}' holds none; write one a line.")
    return prompts


def is_held_out(name: str, share: float, seed: int = 0) -> bool:
    """Whether a prompt or a sample is for validation: the hash of its name decides, so more data moves
    nothing from side to side.

    Arguments:
        name: the prompt, or the name of the sample.
        share: for validation, in [0, 1).
        seed: of the hash.

    Returns:
        True for about that share of names.
    """
    return seed_of(seed, "held out", name) < share * 2**63


def split_prompts(prompts: Sequence[str], share: float = 0.02, seed: int = 0) -> tuple[list[str], list[str]]:
    """Prompts to learn from, and some to look at the student with. Equal prompts stay together; none is lost.

    Arguments:
        prompts: at least one.
        share: held out, about, in [0, 1); above 0 at least one prompt is held out, unless there is only one.
        seed: of the choice.

    Returns:
        The prompts to learn from and those held out, both in the order given.

    Raises:
        StillhouseError: for no prompts, and another share.
    """
    require(len(prompts) > 0, "There are no prompts to split.")
    require(0 <= share < 1, f"The share that is held out lies in [0, 1), not {share}.")
    held = {p for p in prompts if is_held_out(p, share, seed)}
    ranked = sorted(set(prompts), key=lambda p: seed_of(seed, "held out", p))
    if share and not held and len(ranked) > 1:
        held = {ranked[0]}
    if len(held) == len(ranked):
        held.remove(ranked[-1])
    return [p for p in prompts if p not in held], [p for p in prompts if p in held]
