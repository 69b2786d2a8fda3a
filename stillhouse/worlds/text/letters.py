"""English prose that is on every machine with our dependencies: the documentation of Python, NumPy, SciPy
and scikit-learn."""

from __future__ import annotations

import re
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from stillhouse.core.draws import seed_of
from stillhouse.models.letters import Letters

ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789.,;:'\"()-"
PACKAGES = ("numpy", "scipy", "sklearn")
PASSED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "_vendor", "externals"}
SHORTEST = 80  # characters of a paragraph that counts as prose
MARKS, MOST_MARKS = ALPHABET[27:], 0.1  # what is no letter or space, and its largest share in one
EVERY = 10  # one document in so many is held out

_quoted = re.compile(r'"""(.*?)"""', re.S)
_between = re.compile(r"\n\s*\n")
_role = re.compile(r":[a-z:]+:(?=`)")


def letters() -> Letters:
    """The tokens of the byte world: 46 of the 256 bytes, capitals folded."""
    return Letters(ALPHABET)


def prose(text: str) -> list[str]:
    """The paragraphs of ``text`` that read as English: long, wordy, ended by a full stop, of our alphabet
    alone; folded, without markup."""
    found = []
    for paragraph in _between.split(text):
        if len(paragraph) < SHORTEST or not paragraph.rstrip().endswith("."):
            continue
        plain = (
            re.sub(r"\s+", " ", _role.sub("", paragraph).replace("`", "").replace("*", "")).strip().lower()
        )
        marks = sum(map(plain.count, MARKS))
        if len(plain) >= SHORTEST and marks <= MOST_MARKS * len(plain) and set(plain) <= set(ALPHABET):
            found.append(plain)
    return found


def documents() -> dict[str, list[str]]:
    """Paragraphs by document: a module's docstrings, a topic of Python's help, a description of a data set;
    its licence."""
    from pydoc_data.topics import topics

    found = {f"topic/{name}": prose(text) for name, text in topics.items()}
    standard = Path(sysconfig.get_paths()["stdlib"])
    roots = {"python": standard}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            roots[package] = Path(spec.origin).parent
    for root, place in roots.items():
        for file in place.rglob("*.py"):
            parts = file.relative_to(place).parts
            if not PASSED.intersection(parts):
                text = file.read_text("utf-8", errors="ignore")
                found["/".join((root, *parts))] = [
                    p for quoted in _quoted.findall(text) for p in prose(quoted)
                ]
        for file in place.glob("datasets/descr/*.rst"):
            found[f"{root}/{file.name}"] = prose(file.read_text("utf-8", errors="ignore"))
    if (standard / "LICENSE.txt").is_file():
        found["python/LICENSE"] = prose((standard / "LICENSE.txt").read_text("utf-8", errors="ignore"))
    return found


@cache
def corpus() -> dict[str, Tensor]:
    """The texts of the splits ``train`` and ``test`` as one row of tokens each, uint8; about 1.4 MB and 0.2
    MB.

    A document belongs to one split, which follows from its name alone. A paragraph that stands in several
    counts once.
    """
    seen: set[str] = set()
    texts: dict[str, list[str]] = {"train": [], "test": []}
    for name, paragraphs in sorted(documents().items()):
        split = "test" if seed_of("prose", name) % EVERY == 0 else "train"
        fresh = [p for p in dict.fromkeys(paragraphs) if p not in seen]
        seen.update(fresh)
        texts[split] += fresh
    rows = bytes(
        max(ALPHABET.find(chr(byte)), 0) for byte in range(256)
    )  # all that is not in the alphabet was passed over
    return {
        split: torch.frombuffer(bytearray(" ".join(found).encode().translate(rows)), dtype=torch.uint8)
        for split, found in texts.items()
    }


@cache
def word_starts(split: str, length: int) -> Tensor:
    """Where in the text of a split a window of ``length`` tokens may begin: at the start of a word."""
    text = corpus()[split]
    after_space = torch.cat([torch.ones(1, dtype=torch.bool), text[:-1] == ALPHABET.index(" ")])
    return after_space[: len(text) - length + 1].nonzero()[:, 0]
