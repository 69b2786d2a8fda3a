"""Opening what :func:`save_pipeline` wrote: a student's folder, or a LoRA with the base that it was trained
on."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.structure import checked
from stillhouse.io.checked import ABOUT, json_of
from stillhouse.io.export.guidance_input import with_guidance_projection
from stillhouse.io.export.lora import check_base, read_lora
from stillhouse.io.pipelines import Family, open_pipeline
from stillhouse.io.pipelines.index import INDEX, parts
from stillhouse.io.weights import kind_from_config

# what is kept with a student, and what with one of each form
SIDES = {"size": [int], "frames?": int}
STUDENT = {
    "form": str,
    **SIDES,
    "kind": dict,
    "samplings": {"*": dict},
    "free_steps": bool,
    "world": str,
    "prompts": [str],
    "info": dict,
    "companions?": [str],
    "base_model?": (str, None),
}
FORMS = {
    "full": {"scheduler": {"class": str, "config": dict}},
    "lora": {"base": Any},
    "scheduler": {"base": Any},
}


def is_student(folder: str | Path) -> bool:
    """Whether :func:`save_pipeline` wrote ``folder``."""
    return (Path(folder) / ABOUT).is_file()


def open_student(
    folder: str | Path,
    base: str | Path | Family | None = None,
    *,
    adapter: str | type[Family] | None = None,
    **options: Any,
) -> tuple[Family, Denoiser, dict[str, Denoiser], dict[str, Any]]:
    """Open a student that :func:`save_pipeline` wrote.

    Arguments:
        folder: of the student.
        base: for a LoRA or a scheduler alone, the pipeline it was made for; None for a whole pipeline.
        adapter: a :class:`Family` of one's own, as in :func:`stillhouse.io.pipelines.open_pipeline`.
        options: of :func:`stillhouse.io.pipelines.open_pipeline`, over what was kept.

    Returns:
        The family of its pipeline, its denoiser, its companions by name, and what was kept with it.

    Raises:
        StillhouseError: the folder holds no student, or one that needs a base is given none or another one.
    """
    folder = Path(folder)
    require(is_student(folder), f"'{folder}' holds no student that save_pretrained wrote (no {ABOUT}).")
    about = json_of(folder / ABOUT, STUDENT)
    form = about["form"]
    checked(about, FORMS.get(form, FORMS["full"]), f"'{folder / ABOUT}' can't be read")
    sides = {**sides_of(about, folder / ABOUT), **options}
    if form == "lora":
        require(
            base is not None,
            f"'{folder}' is a LoRA; give the pipeline it was trained on ('{about['base_model']}') as its "
            "base.",
        )
        family = base if isinstance(base, Family) else open_pipeline(base, adapter, **sides)  # type: ignore[arg-type]
        denoiser = family.denoiser()
        check_base(denoiser.net, about["base"], folder)
        student = _of_kind(read_lora(folder, denoiser), about)
        beside = {
            name: _of_kind(read_lora(folder / name, student), about) for name in _companions(folder, about)
        }
        return family, student, beside, about
    if form == "scheduler":
        require(
            base is not None,
            f"'{folder}' is a scheduler without weights; give the pipeline it was searched for "
            f"('{about['base_model']}') as its base.",
        )
        family = base if isinstance(base, Family) else open_pipeline(base, adapter, **sides)  # type: ignore[arg-type]
        denoiser = family.denoiser()
        check_base(denoiser.net, about["base"], folder, "scheduler", "searched")
        return family, denoiser, {}, about
    require(base is None, f"'{folder}' is a whole pipeline, no LoRA; load it without a base.")
    family = _opened(folder, about, adapter, sides)
    beside = {name: _beside(folder / name, family, about) for name in _companions(folder, about)}
    return family, _of_kind(family.denoiser(), about), beside, about


def sides_of(about: dict[str, Any], source: Path) -> dict[str, int]:
    """The size that a student was made for, as options of opening its pipeline.

    Arguments:
        about: what a folder of ours holds of its student.
        source: the file it was read from, for the sentence.

    Returns:
        ``height``, ``width`` and, of clips, ``frames``; raises :class:`StillhouseError` for others.
    """
    checked(about, SIDES, f"'{source}' can't be read")
    sides: list[int] = about["size"]
    require(len(sides) == 2, f"'{source}' can't be read: 'size' is height and width, not {sides}.")
    frames = {"frames": about["frames"]} if "frames" in about else {}
    return {"height": sides[0], "width": sides[1], **frames}


def _of_kind(denoiser: Denoiser, about: dict[str, Any]) -> Denoiser:
    denoiser.kind = kind_from_config(about["kind"])  # a method may have tied its ends
    return denoiser


def _companions(folder: Path, about: dict[str, Any]) -> list[str]:
    """Names of the companions that lie beside the student; `inverse` was the only one before they had a
    list."""
    names = about.get("companions", ["inverse"] if (folder / "inverse").is_dir() else [])
    require(all(n.isidentifier() for n in names), f"'{folder / ABOUT}' lists companions that are no names.")
    return [name for name in names if (folder / name).is_dir()]


def _beside(folder: Path, family: Family, about: dict[str, Any]) -> Denoiser:
    made = type(family.network).from_pretrained(folder, use_safetensors=True, local_files_only=True)
    net = made.eval().requires_grad_(False)
    return _of_kind(
        Denoiser(net, family.process, family.kind, call=family.call_network, empty=family.empty), about
    )


def _opened(
    folder: Path, about: dict[str, Any], adapter: str | type[Family] | None, options: dict[str, Any]
) -> Family:
    """The family of a saved student, read with its teacher's scheduler (which holds the process) in the place
    of the student's.

    So the folder's own scheduler file, where there is one, is not run.
    """
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        index = json_of(folder / INDEX, {"_class_name": str})
        for part in parts(index):
            if part != "scheduler":
                os.symlink((folder / part).resolve(), view / part, target_is_directory=True)
        index["scheduler"] = ["diffusers", about["scheduler"]["class"]]
        (view / INDEX).write_text(json.dumps(index))
        (view / "scheduler").mkdir()
        config = {**about["scheduler"]["config"], "_class_name": about["scheduler"]["class"]}
        (view / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
        family = open_pipeline(view, adapter, **options)
    family.folder = folder
    if about.get("idle_input", about.get("deaf")):
        setattr(family.pipe, family.part, with_guidance_projection(family.network))
    return family
