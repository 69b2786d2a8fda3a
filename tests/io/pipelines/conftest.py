"""Tiny pipelines, built once for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillhouse.io.pipelines import Family, open_pipeline, tiny

SMALL = {"height": 64, "width": 64}
LARGE = {  # whose default picture or clip is too large for a test
    **dict.fromkeys(("flux", "flux_schnell", "pixart_alpha"), SMALL),
    "wan": {"height": 16, "width": 32, "frames": 5},
    "ltx": {"height": 64, "width": 96, "frames": 9},
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline of a kind."""
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny.build(kind, root / kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def opened(built: Callable[[str], Path]) -> Callable[[str], Family]:
    """The family of a tiny pipeline of a kind; shared, so not to be changed."""
    made: dict[str, Family] = {}

    def family(kind: str) -> Family:
        torch.set_num_threads(1)
        if kind not in made:
            made[kind] = open_pipeline(built(kind), **LARGE.get(kind, {}))
        return made[kind]

    return family
