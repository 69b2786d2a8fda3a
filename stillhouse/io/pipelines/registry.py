"""The families by Diffusers class, and the look-up of a user's own class."""

from __future__ import annotations

from pathlib import Path

from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.io.own import imported
from stillhouse.io.pipelines.base import Family
from stillhouse.io.pipelines.flux import Flux
from stillhouse.io.pipelines.labels import DiT, PixelUNet
from stillhouse.io.pipelines.ltx import LTX
from stillhouse.io.pipelines.pixart import PixArt
from stillhouse.io.pipelines.sana import Sana
from stillhouse.io.pipelines.sd import SD
from stillhouse.io.pipelines.sd3 import SD3
from stillhouse.io.pipelines.sdxl import SDXL
from stillhouse.io.pipelines.wan import Wan

FAMILIES: dict[str, type[Family]] = {}


def register(family: type[Family]) -> type[Family]:
    """Make ``family`` the reader of its ``pipelines``; usable as a decorator. A later one takes the place of
    an earlier one."""
    require(
        isinstance(family, type) and issubclass(family, Family),
        f"An adapter is a subclass of Family, not {family!r}.",
    )
    require(bool(family.pipelines), f"The adapter {family.__name__} names no Diffusers class in `pipelines`.")
    FAMILIES.update(dict.fromkeys(family.pipelines, family))
    return family


def family_for(name: str, adapter: str | type[Family] | None = None) -> type[Family]:
    """The family that reads a pipeline.

    Arguments:
        name: of the pipeline's class in Diffusers.
        adapter: a class, or ``"./file.py:Class"``, to be used whatever the name; None: the registered one.

    Returns:
        A subclass of :class:`Family`; raises :class:`StillhouseError` where there is none.
    """
    if isinstance(adapter, str):
        return _from_file(adapter)
    if adapter is not None:
        require(
            isinstance(adapter, type) and issubclass(adapter, Family),
            f"An adapter is a subclass of Family, not {adapter!r}.",
        )
        return adapter
    if name not in FAMILIES:
        raise StillhouseError(
            f"No family reads a {name} (known: {', '.join(sorted(FAMILIES))}); write one: a subclass of "
            "stillhouse.io.pipelines.Family "
            "with `part`, `call` and `encode_plain`, given as --adapter ./my.py:MyFamily."
        )
    return FAMILIES[name]


def _from_file(adapter: str) -> type[Family]:
    file, colon, name = adapter.rpartition(":")
    require(
        bool(colon and name) and file.endswith(".py"),
        f"An adapter is given as ./file.py:Class, not '{adapter}'.",
    )
    require(Path(file).is_file(), f"There is no adapter file '{file}'.")
    try:
        module = imported(Path(file), "stillhouse_adapters")
    except Exception as error:  # whatever the user's file does wrong is told as one sentence
        raise StillhouseError(f"The adapter file '{file}' fails: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    return required(
        found if isinstance(found, type) and issubclass(found, Family) else None,
        f"'{file}' has no class {name} that is a subclass of Family.",
    )


for _family in (SD, SDXL, SD3, Flux, PixArt, Sana, DiT, PixelUNet, Wan, LTX):
    register(_family)
