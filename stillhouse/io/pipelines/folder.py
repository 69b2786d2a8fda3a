"""Opening a pipeline: a folder is looked through before anything is loaded, and nothing is downloaded or run
that was not named."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stillhouse.core.errors import StillhouseError, require
from stillhouse.core.precision import dtype_of
from stillhouse.io.pipelines.base import Family
from stillhouse.io.pipelines.index import HUB, check_folder, parts
from stillhouse.io.pipelines.parameterization import decided, overruled
from stillhouse.io.pipelines.precision import file_dtype, held_in_files
from stillhouse.io.pipelines.quiet import quiet
from stillhouse.io.pipelines.registry import family_for
from stillhouse.io.pipelines.single import open_single
from stillhouse.io.pipelines.video import VideoFamily


def open_pipeline(
    source: str | Path,
    adapter: str | type[Family] | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    config: str | Path | None = None,
    prediction: str | None = None,
    zero_snr: bool | None = None,
    local: bool = False,
) -> Family:
    """Open a pipeline: its parts loaded on the CPU, from safetensors alone; no code of the folder is run.

    Arguments:
        source: a folder with a ``model_index.json``; ``"hub:owner/name"`` (the only form that downloads); or
            a single safetensors checkpoint.
        adapter: a :class:`Family` of one's own, or ``"./file.py:Class"``; None: the one registered for the
            pipeline's class.
        dtype: of the weights, a torch dtype or ``fp32``, ``bf16``, ``fp16``; None: of each part as its files
            have it (of a hub's model float32).
        height: of the pictures, in pixels; None: the pipeline's default.
        width: likewise.
        frames: of clips; None: the pipeline's default.
        config: for a single checkpoint, a local folder of the same kind of pipeline.
        prediction: of the network, ``eps``, ``v`` or ``x0``; None: as the pipeline has it, or a single file.
        zero_snr: whether its table ends at zero SNR; None: likewise.
        local: a hub's pipeline is taken from the cache of what was fetched before, and no network is used.

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
    source = _cached(str(source)) if local and str(source).startswith(HUB) else source
    name, note, dtype = str(source), "", None if dtype is None else dtype_of(dtype)
    if Path(name).is_file():
        pipe, folder = open_single(Path(name), dtype or file_dtype(Path(name)), config), None
        pipe.scheduler, note = decided(pipe.scheduler, Path(name), prediction, zero_snr)
    elif name.startswith(HUB):
        pipe, folder = _load(name.removeprefix(HUB), local=False, torch_dtype=dtype or torch.float32), None
        pipe.scheduler = overruled(pipe.scheduler, prediction, zero_snr)
    else:
        folder = Path(name)
        index = check_folder(folder)
        family_for(index["_class_name"], adapter)  # an unknown class is refused before gigabytes are read
        variant = _variant(folder, index)
        own = dtype or held_in_files(folder, index, variant)
        pipe = _load(name, local=True, torch_dtype=own, variant=variant)
        pipe.scheduler = overruled(pipe.scheduler, prediction, zero_snr)
    kind = family_for(type(pipe).__name__, adapter)
    clips = {} if frames is None else {"frames": frames}
    if clips:
        require(issubclass(kind, VideoFamily), f"{type(pipe).__name__} makes pictures, which have no frames.")
    family = kind(for_inference(pipe), height=height, width=width, folder=folder, **clips)
    family.notes = [note] if note else []
    return family


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


def _cached(source: str) -> str:
    """The folder of a hub's pipeline that was fetched before; the hub is not asked, which Diffusers' own
    ``local_files_only`` does where a model is unknown."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(source.removeprefix(HUB), local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise StillhouseError(
            f"'{source}' is named by a file and was not fetched before; nothing is fetched that you have not "
            f"named yourself: add --teacher {source}, or open it once."
        ) from error


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
    return pipe


def for_inference(pipe: Any) -> Any:
    """In evaluation mode, without progress bars of its own, and with tokenizers that give no more tokens than
    their encoder has places for: some are saved without a limit."""
    pipe.set_progress_bar_config(disable=True)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
        if name.startswith("tokenizer") and part is not None:
            encoder = pipe.components.get(name.replace("tokenizer", "text_encoder"))
            places = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
            part.model_max_length = min(part.model_max_length, places or part.model_max_length)
            if name == "tokenizer" and hasattr(pipe, "tokenizer_max_length"):
                pipe.tokenizer_max_length = part.model_max_length  # a copy that some pipelines make
    return pipe


def title_of(folder: str | Path) -> str:
    """The name of a model's folder; in the hub's cache, ``…/models--owner--name/snapshots/HASH``, that of the
    repository, ``owner/name``."""
    folder = Path(folder)
    found = re.search(r"/models--([^/]+)/snapshots/[^/]+$", folder.absolute().as_posix())
    return found[1].replace("--", "/", 1) if found else folder.resolve().name
