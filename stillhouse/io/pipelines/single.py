"""Checkpoints in a single safetensors file: whole pipelines, networks alone, and all between; what a file
lacks comes from the folder that its configuration is read from."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stillhouse.core.errors import StillhouseError, require, required
from stillhouse.io.pipelines.index import OPTIONAL, PICKLES, PREPARERS, check_folder, parts
from stillhouse.io.pipelines.parameterization import MARKS, header
from stillhouse.io.pipelines.quiet import quiet

LIBRARIES = ("diffusers", "transformers")  # whose parts are read from the configuration's folder
NETWORKS = ("unet", "transformer")
ORIGINAL = "model.diffusion_model."  # before the names of a network in a whole checkpoint
PREFIXES = (ORIGINAL, "diffusion_model.", "unet.", "transformer.")
HELD = {  # before the names of other parts in a whole checkpoint
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
}
T5 = ("text_encoders.t5xxl.",)
ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)


def open_single(file: Path, dtype: torch.dtype, config: str | Path | None) -> Any:
    """The pipeline of a single-file checkpoint.

    Arguments:
        file: the checkpoint, a whole one, a network alone, or one without some parts.
        dtype: of the weights.
        config: a folder of the same kind of pipeline: shapes, tokenizers and scheduler are its own, and so
            are the weights of the parts that the file lacks. It needs no others.

    Returns:
        The pipeline, with the scheduler of ``config``. Raises :class:`StillhouseError` for a pickle, and for
        a part that neither has.
    """
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
    folder = required(
        None if config is None else Path(config),
        f"The single file '{file}' holds weights alone; name a folder of the same kind of pipeline, for its "
        "configuration and tokenizers, as config (--config).",
    )
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    index, keys = check_folder(folder, weights=False), header(file)[0]
    known: Any = getattr(diffusers, index["_class_name"], None)
    require(
        hasattr(known, "from_single_file"),
        f"{index['_class_name']} can't be read from a single file; use a folder.",
    )
    with quiet():
        try:
            given = {
                name: _part(file, keys, folder, name, made_of, dtype)
                for name, made_of in parts(index).items()
                if not name.startswith(PREPARERS) and name not in OPTIONAL
            }
            return known.from_single_file(
                str(file),
                config=str(folder),
                torch_dtype=dtype,
                local_files_only=True,
                **{name: part for name, part in given.items() if part is not None},
            )
        except (*ERRORS, SingleFileComponentError) as error:
            reason = " ".join(str(error).split())[:300]
            raise StillhouseError(
                f"Diffusers can't read '{file}' as a {index['_class_name']} like '{config}': {reason}"
            ) from error


def _holds(keys: list[str], name: str, kind: str) -> bool:
    """Whether a file holds a part under the names of whole checkpoints."""
    prefixes = (ORIGINAL,) if name in NETWORKS else T5 if "T5" in kind else HELD.get(name, ())
    return any(key.startswith(prefixes) for key in keys) if prefixes else False


def _part(
    file: Path, keys: list[str], folder: Path, name: str, made_of: list[str], dtype: torch.dtype
) -> Any:
    """A part that Diffusers would not find in the file: a network under other names, or what the folder has.
    None: it will find it."""
    library, kind = made_of
    if _holds(keys, name, kind):
        return None
    if name in NETWORKS:
        return _network(file, folder, name, getattr(importlib.import_module("diffusers"), kind), dtype)
    require(
        library in LIBRARIES,
        f"The part '{name}' of '{folder}' is one of {library}, which is not imported for a single file; "
        f"only those of {' and '.join(LIBRARIES)} are.",
    )
    require(
        any((folder / name).glob("*.safetensors")),
        f"'{file}' has no {name}, and neither has '{folder}'; name a folder with weights for it as config "
        "(--config).",
    )
    known = getattr(importlib.import_module(library), kind)
    return known.from_pretrained(
        str(folder / name), torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )


def _network(file: Path, folder: Path, name: str, kind: Any, dtype: torch.dtype) -> Any:
    """The network of a file that holds nothing else, under its original names or Diffusers'."""
    weights = load_file(file)
    prefix = next((p for p in PREFIXES if any(key.startswith(p) for key in weights)), "")
    bare = {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}
    bare = {key: w for key, w in bare.items() if key not in MARKS}
    original = "input_blocks.0.0.weight" in bare
    named = {ORIGINAL + key: w for key, w in bare.items()} if original else bare
    net = kind.from_single_file(
        named, config=str(folder), subfolder=name, torch_dtype=dtype, local_files_only=True
    )
    empty = next((key for key, w in net.state_dict().items() if w.is_meta), None)
    require(empty is None, f"'{file}' has no weights for {name}'s {empty}.")
    return net
