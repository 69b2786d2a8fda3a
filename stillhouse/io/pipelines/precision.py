"""In which precision the files of a pipeline hold its weights; read from their headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.io.checked import opened

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def file_dtype(*files: Path) -> torch.dtype:
    """The precision of most weights in safetensors files; float32 where that is another one than float32,
    bfloat16 and float16, and for a file that can't be read, which its reader refuses."""
    found: Counter[str] = Counter()
    for file in files:
        with suppress(StillhouseError), opened(file) as held:
            found.update({"F32": 0})
            for name in held.keys():  # noqa: SIM118 (not a dict)
                weight = held.get_slice(name)
                found[weight.get_dtype()] += prod(weight.get_shape())
    most = found.most_common(1)
    return FLOATS.get(most[0][0], torch.float32) if most else torch.float32


def held_in_files(folder: Path, index: Mapping[str, Any], variant: str | None) -> dict[str, torch.dtype]:
    """The precision of each part of a pipeline's folder.

    Arguments:
        folder: of the pipeline, looked through already.
        index: its ``model_index.json``.
        variant: the one that is opened, ``fp16`` for example; None for files without one in their names.

    Returns:
        Dtypes by part, as Diffusers takes them; ``default`` for what has no weights.
    """
    made = {"default": torch.float32}
    for part in index:
        files = sorted((folder / part).glob("*.safetensors")) if not part.startswith("_") else []
        chosen = [f for f in files if f".{variant}." in f.name or f".{variant}-" in f.name] if variant else []
        if files:
            made[part] = file_dtype(*(chosen or files))
    return made
