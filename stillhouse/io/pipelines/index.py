"""A pipeline's folder looked through before anything is loaded: its parts are there, and none of them is a
pickle or needs code to be run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.core.errors import StillhouseError, require
from stillhouse.io.checked import json_of
from stillhouse.io.inside import plain

INDEX = "model_index.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
PREPARERS = (
    "tokenizer",
    "feature_extractor",
    "image_processor",
    "scheduler",
    "processor",
)  # parts without weights
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")  # parts that a pipeline can be without
HUB = "hub:"
LIBRARIES = ("diffusers", "transformers")  # whose classes a pipeline's parts are


def check_folder(folder: Path, weights: bool = True) -> dict[str, Any]:
    """The index of a pipeline's folder, all parts of which are there, and none of which is a pickle or needs
    code to be run.

    Arguments:
        folder: of the pipeline.
        weights: whether they must be there; else the configuration of the parts alone.

    Returns:
        The index, as JSON has it; raises :class:`StillhouseError` where a part is missing or not safe.
    """
    require(folder.is_dir(), f"There is no folder '{folder}'; a hub model is named as {HUB}owner/name.")
    if not (folder / INDEX).is_file():
        loose = [f.name for f in folder.iterdir() if f.suffix in PICKLES]
        also = (
            f" It holds {loose[0]}, a pickle: open that where you trust it and call save_pretrained."
            if loose
            else ""
        )
        raise StillhouseError(f"The folder '{folder}' is no Diffusers pipeline: it has no {INDEX}.{also}")
    index: dict[str, Any] = json_of(folder / INDEX, {"_class_name": Any})
    name = index["_class_name"]
    require(
        isinstance(name, str),
        f"The pipeline in '{folder}' brings code of its own ({name}), which is not run; write an adapter "
        "for its class.",
    )
    for part, made_of in parts(index).items():
        if weights or part not in OPTIONAL:
            _check_part(folder, part, made_of, weights)
    return index


def parts(index: Mapping[str, Any]) -> dict[str, list[str]]:
    """Parts of a pipeline by name: [library, class]. Those it does without are left out; raises
    :class:`StillhouseError` for a name that leaves the folder."""
    found = {
        k: v
        for k, v in index.items()
        if not k.startswith("_") and isinstance(v, list) and len(v) == 2 and v[0] is not None
    }
    odd = next((name for name in found if not plain(name)), None)
    require(odd is None, f"'{INDEX}' names the part '{odd}', which is no folder beside it.")
    return found


def _of_diffusers(library: object) -> bool:
    """Whether a name is that of a kind of pipeline within Diffusers, which has parts of its own."""
    named = isinstance(library, str) and library.isidentifier()
    return named and importlib.util.find_spec(f"diffusers.pipelines.{library}") is not None


def _check_shards(file: Path) -> None:
    """Refuse an index of weights that leads out of its folder."""
    try:
        names = json_of(file, {"weight_map": dict})["weight_map"].values()
    except StillhouseError as error:
        raise StillhouseError(f"{str(error).rstrip('.')}; it is no index of weights.") from error
    odd = next((name for name in names if not plain(name)), None)
    require(odd is None, f"'{file}' names the weights '{odd}', which do not lie beside it.")


def _check_part(folder: Path, part: str, made_of: list[str], weights: bool) -> None:
    library, place = made_of[0], folder / part
    require(
        library in LIBRARIES or _of_diffusers(library),
        f"The part '{part}' of '{folder}' is made by the package '{library}', which is not imported because "
        "a file names it; give it a part of Diffusers or Transformers.",
    )
    for file in place.glob("*.index.json"):
        _check_shards(file)
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
    if not weights or any(place.glob("*.safetensors")):
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
