"""A LoRA in a single file, ours or anybody's, on its base: under Diffusers', PEFT's or kohya's names, of the
network and of the text encoders, as far as Diffusers reads it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.structure import checked
from stillhouse.io.checked import json_text
from stillhouse.io.export.lora import DIFFUSERS, check_base
from stillhouse.io.export.reopen import STUDENT, sides_of
from stillhouse.io.pipelines import Family, open_pipeline
from stillhouse.io.pipelines.parameterization import header
from stillhouse.io.pipelines.quiet import quiet

HALVES = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "_lora.down.", "_lora.up.", ".lora.down.")
ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)


def is_lora(file: Path) -> bool:
    """Whether a safetensors file holds a LoRA."""
    return (
        file.is_file()
        and file.suffix == ".safetensors"
        and any(half in key for key in header(file)[0] for half in HALVES)
    )


def lora_in(place: Path) -> Path:
    """The LoRA's file in a folder of anybody's, or the file itself; raises :class:`StillhouseError` where
    there is none."""
    found = [place] if place.is_file() else [f for f in sorted(place.glob("*.safetensors")) if is_lora(f)]
    usual = [f for f in found if f.name == DIFFUSERS] or found
    require(
        len(usual) == 1 and is_lora(usual[0]),
        f"'{place}' is no LoRA, neither a safetensors file with one nor a folder; only a LoRA takes a base.",
    )
    return usual[0]


def open_lora(
    file: Path, base: str | Path | Family, adapter: str | type[Family] | None = None, **options: Any
) -> tuple[Family, dict[str, Any]]:
    """A pipeline with a LoRA folded into its weights.

    Arguments:
        file: the LoRA, a safetensors file; see :func:`lora_in`.
        base: the pipeline it was trained on, which is left as it is.
        adapter: a :class:`Family` of one's own, as in :func:`stillhouse.io.pipelines.open_pipeline`.
        options: of :func:`stillhouse.io.pipelines.open_pipeline`.

    Returns:
        The family of the changed pipeline, and what :func:`stillhouse.io.export.save_pipeline` kept with a
        LoRA of its own; empty for any other.

    Raises:
        StillhouseError: its base is another, or Diffusers does not read it.
    """
    about = _kept(file)
    if "size" in about:
        options = {**sides_of(about, file), **options}
    family = base if isinstance(base, Family) else open_pipeline(base, adapter, **options)
    if "base" in about:
        check_base(family.network, about["base"], file)
    pipe = copy.deepcopy(family.pipe) if isinstance(base, Family) else family.pipe
    require(
        hasattr(pipe, "load_lora_weights"),
        f"Diffusers reads no LoRA files for a {type(pipe).__name__}; open the folder that it was saved in.",
    )
    with quiet():
        try:
            place = {"weight_name": file.name, "local_files_only": True, "use_safetensors": True}
            pipe.load_lora_weights(str(file.parent), **place)
            touched = [name for name in pipe._lora_loadable_modules if _has_layers(getattr(pipe, name, None))]
            pipe.fuse_lora(components=touched)
            pipe.unload_lora_weights()
        except ERRORS as error:
            reason = " ".join(str(error).split())[:300]
            raise StillhouseError(
                f"Diffusers can't put '{file}' on this {type(pipe).__name__}: {reason}"
            ) from error
    require(bool(touched), f"No layer of this {type(pipe).__name__} is one of those that '{file}' changes.")
    fused = copy.copy(family)
    fused.pipe = pipe
    for cached in ("empty", "schedule"):  # of the text encoders and the pipeline before
        fused.__dict__.pop(cached, None)
    fused.notes = [*family.notes, f"'{file.name}' is folded into the weights of {' and '.join(touched)}."]
    return fused, about


def _kept(file: Path) -> dict[str, Any]:
    text = header(file)[1].get("stillhouse", "{}")
    about: dict[str, Any] = json_text(text, dict, f"The header of '{file}'")
    if "samplings" not in about:
        return {}
    checked(about, STUDENT, f"The header of '{file}' can't be read")
    return about


def _has_layers(part: Any) -> bool:
    return part is not None and any(hasattr(module, "lora_A") for module in part.modules())
