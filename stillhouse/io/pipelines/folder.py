"""Opening a pipeline: a folder is looked through before anything is loaded, and nothing is downloaded or run
that was not named."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.io.pipelines.base import Family
from stillhouse.io.pipelines.precision import file_dtype, held_in_files
from stillhouse.io.pipelines.quiet import quiet
from stillhouse.io.pipelines.registry import family_for
from stillhouse.io.pipelines.video import VideoFamily

INDEX = "model_index.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
PREPARERS = (
    "tokenizer",
    "feature_extractor",
    "image_processor",
    "scheduler",
    "processor",
)  # parts without weights
HUB = "hub:"


def open_pipeline(
    source: str | Path,
    adapter: str | type[Family] | None = None,
    *,
    dtype: torch.dtype | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    config: str | Path | None = None,
) -> Family:
    """Open a pipeline: its parts loaded on the CPU, from safetensors alone; no code of the folder is run.

    Arguments:
        source: a folder with a ``model_index.json``; ``"hub:owner/name"`` (the only form that downloads); or
            a single safetensors checkpoint.
        adapter: a :class:`Family` of one's own, or ``"./file.py:Class"``; None: the one registered for the
            pipeline's class.
        dtype: of the weights; None: of each part as its files have it (of a hub's model float32).
        height: of the pictures, in pixels; None: the pipeline's default.
        width: likewise.
        frames: of clips; None: the pipeline's default.
        config: for a single checkpoint, a local folder of the same kind of pipeline.

    Returns:
        The pipeline's family.

    Raises:
        StillhouseError: the folder is no pipeline, a part is missing, weights are pickled, or no family reads
            the pipeline.
    """
    missing = [
        package for package in ("diffusers", "transformers") if importlib.util.find_spec(package) is None
    ]
    require(
        not missing, f"Reading a pipeline needs {' and '.join(missing)}: pip install {' '.join(missing)}."
    )
    name = str(source)
    if name.startswith(HUB):
        pipe, folder = _load(name.removeprefix(HUB), local=False, torch_dtype=dtype or torch.float32), None
    elif Path(name).is_file():
        pipe, folder = _single(Path(name), dtype or file_dtype(Path(name)), config), None
    else:
        folder = Path(name)
        index = check_folder(folder)
        family_for(index["_class_name"], adapter)  # an unknown class is refused before gigabytes are read
        variant = _variant(folder, index)
        own = dtype or held_in_files(folder, index, variant)
        pipe = _load(name, local=True, torch_dtype=own, variant=variant)
    kind = family_for(type(pipe).__name__, adapter)
    if frames is None:
        return kind(pipe, height=height, width=width, folder=folder)
    require(issubclass(kind, VideoFamily), f"{type(pipe).__name__} makes pictures, which have no frames.")
    return kind(pipe, height=height, width=width, folder=folder, frames=frames)  # type: ignore[call-arg]


def check_folder(folder: Path) -> dict[str, Any]:
    """The index of a pipeline's folder, all parts of which are there, and none of which is a pickle or needs
    code to be run."""
    require(folder.is_dir(), f"There is no folder '{folder}'; a hub model is named as {HUB}owner/name.")
    if not (folder / INDEX).is_file():
        loose = [f.name for f in folder.iterdir() if f.suffix in PICKLES]
        also = (
            f" It holds {loose[0]}, a pickle: open that where you trust it and call save_pretrained."
            if loose
            else ""
        )
        raise StillhouseError(f"The folder '{folder}' is no Diffusers pipeline: it has no {INDEX}.{also}")
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
        name = index["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(
            f"'{folder / INDEX}' can't be read: it is no JSON object with a _class_name."
        ) from error
    require(
        isinstance(name, str),
        f"The pipeline in '{folder}' brings code of its own ({name}), which is not run; write an adapter "
        "for its class.",
    )
    for part, made_of in parts(index).items():
        _check_part(folder, part, made_of)
    return index


def parts(index: Mapping[str, Any]) -> dict[str, list[str]]:
    """Parts of a pipeline by name: [library, class]. Those it does without are left out."""
    return {
        k: v
        for k, v in index.items()
        if not k.startswith("_") and isinstance(v, list) and len(v) == 2 and v[0] is not None
    }


def _check_part(folder: Path, part: str, made_of: list[str]) -> None:
    place = folder / part
    require(
        place.is_dir(),
        f"The pipeline in '{folder}' lacks its part '{part}' ({made_of[1]}); copy the whole folder.",
    )
    require(
        not list(place.glob("*.py")),
        f"The part '{part}' of '{folder}' brings code of its own, which is not run; give it a scheduler or "
        "network of Diffusers.",
    )
    if part.startswith(PREPARERS):
        require(
            any(place.glob("*.json")) or any(place.iterdir()),
            f"The part '{part}' of '{folder}' is empty; copy the whole folder.",
        )
        return
    if any(place.glob("*.safetensors")):
        return
    pickled = sorted(f.name for f in place.iterdir() if f.suffix in PICKLES)
    require(
        not pickled,
        f"'{place / (pickled or [''])[0]}' is a pickle, which can run code when opened; convert it where "
        "you trust it: "
        f"DiffusionPipeline.from_pretrained('{folder}').save_pretrained('{folder}-safe', "
        "safe_serialization=True).",
    )
    raise StillhouseError(
        f"The part '{part}' of '{folder}' has no weights (*.safetensors); copy the whole folder."
    )


def _variant(folder: Path, index: Mapping[str, Any]) -> str | None:
    """The variant (``fp16``) of a folder whose network comes in no other."""
    names = [
        f.name
        for part in ("unet", "transformer")
        if part in parts(index)
        for f in (folder / part).glob("*.safetensors")
    ]
    found = [re.fullmatch(r"[^.]+\.([a-z]\w*?)(-\d+-of-\d+)?\.safetensors", name) for name in names]
    return next((match[1] for match in found if match), None) if all(found) else None


def _load(name: str, local: bool, **options: Any) -> Any:
    from diffusers import DiffusionPipeline

    with quiet():
        try:
            pipe = DiffusionPipeline.from_pretrained(
                name, use_safetensors=True, local_files_only=local, **options
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise StillhouseError(
                f"Diffusers can't open the pipeline '{name}': {type(error).__name__}: {reason}"
            ) from error
    return _for_inference(pipe)


def _single(file: Path, dtype: torch.dtype, config: str | Path | None) -> Any:
    """A single-file checkpoint, with the shapes, the tokenizers and the scheduler of a local folder."""
    require(
        file.suffix not in PICKLES,
        f"'{file}' is a pickle, which can run code when opened; convert it where you trust it: "
        "safetensors.torch.save_file(torch.load(path, weights_only=True)['state_dict'], "
        "'model.safetensors').",
    )
    require(
        file.suffix == ".safetensors",
        f"'{file}' is neither a pipeline's folder nor a .safetensors checkpoint.",
    )
    named = required(
        config,
        f"The single file '{file}' holds weights alone; name a folder of the same kind of pipeline, for "
        "its configuration and tokenizers, "
        "as config (--config).",
    )
    import diffusers

    index = check_folder(Path(str(named)))
    known: Any = getattr(diffusers, index["_class_name"], None)
    require(
        hasattr(known, "from_single_file"),
        f"{index['_class_name']} can't be read from a single file; use a folder.",
    )
    with quiet():
        try:
            pipe = known.from_single_file(
                str(file), config=str(config), torch_dtype=dtype, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise StillhouseError(
                f"Diffusers can't read '{file}' as a {index['_class_name']} like '{config}': {reason}"
            ) from error
    return _for_inference(pipe)


def _for_inference(pipe: Any) -> Any:
    """In evaluation mode, without progress bars of its own."""
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe
