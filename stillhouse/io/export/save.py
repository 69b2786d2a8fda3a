"""Writing a student as a Diffusers folder, as a LoRA, or as both: whole or not at all."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from stillhouse.adapters import Adapted
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError, require, required_type, unknown
from stillhouse.core.guidance import takes_guidance
from stillhouse.core.precision import held_in
from stillhouse.io.checked import ABOUT, json_of
from stillhouse.io.export.card import Facts, card
from stillhouse.io.export.guidance_input import with_idle_input
from stillhouse.io.export.kohya import write_kohya
from stillhouse.io.export.lora import fingerprint, write_lora
from stillhouse.io.export.schedulers import Choice, choose
from stillhouse.io.export.walks import Sampled
from stillhouse.io.leftovers import part_of
from stillhouse.io.pipelines import Family
from stillhouse.io.pipelines.index import INDEX
from stillhouse.io.pipelines.quiet import quiet
from stillhouse.io.weights import kind_config

FORMS = ("full", "lora", "both", "scheduler")
LORA_FOLDER = "lora"


def save_pipeline(
    folder: str | Path,
    family: Family,
    denoiser: Denoiser,
    samplings: Mapping[int, Sampled],
    info: Mapping[str, Any] | None = None,
    *,
    form: str | None = None,
    free_steps: bool = False,
    fixed_guidance: bool = True,
    companions: Mapping[str, nn.Module] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write a student of a pipeline.

    The training network is left as it is. A folder that a student was saved to before is replaced; raises
    :class:`StillhouseError` for one that holds anything else, and for a student that is no network of this
    pipeline.

    Arguments:
        folder: to write.
        family: of the pipeline.
        denoiser: the student.
        samplings: by number of steps, the default first.
        info: plain data to be kept; its method and teacher stand on the card.
        form: ``full``, a pipeline that ``DiffusionPipeline.from_pretrained(folder)`` opens; ``lora``, the
            adapter alone, in PEFT's, Diffusers' and (of U-Nets and Flux) kohya's form;
            ``both``, the pipeline with the LoRA in its subfolder ``lora``; ``scheduler``, no
            weights at all, for a model that is the pipeline's own network with other samplings. None: both
            for an adapter, since the one just works and the other is small enough to share; full for any
            other student.
        free_steps: it is a many-step model and keeps the teacher's scheduler.
        fixed_guidance: a U-Net whose student needs no guidance gets an input for it that does nothing, so
            that Diffusers never evaluates twice; False leaves guidance to the caller.
        companions: further denoisers of the pipeline's network by name, which :func:`open_student` gives
            back.
        more: further plain data to be kept, beside ``info``.

    Returns:
        The folder.
    """
    form = form or ("both" if isinstance(denoiser, Adapted) else "full")
    if form not in FORMS:
        raise unknown("form of a saved student", form, FORMS)
    require(
        form in ("full", "scheduler") or isinstance(denoiser, Adapted),
        "Only a student trained as an adapter can be saved as a LoRA; train with a lora rank.",
    )
    require(
        form != "scheduler" or denoiser.net is family.network,
        "Only a model with its pipeline's own weights can be saved as a scheduler alone.",
    )
    require(bool(samplings), "A student without a sampling can't be saved.")
    require(
        hasattr(denoiser.net, "save_pretrained") and denoiser.process.config() == family.process.config(),
        f"This student is no network of the {type(family.pipe).__name__} that it would be saved with.",
    )
    beside = {name: _companion(family, name, module) for name, module in (companions or {}).items()}
    folder, info = Path(folder), dict(info or {})
    choice = (
        Choice(family.pipe.scheduler, [*samplings]) if free_steps else choose(family, denoiser, samplings)
    )
    kept = {"takes_guidance": takes_guidance(denoiser), "free_steps": free_steps}
    facts = Facts(family, info, samplings, choice, "full", folder.resolve().name, **kept)
    about = {
        "base_model": facts.base,
        "family": type(family).__name__,
        "size": list(family.size),
        **({"frames": family.frames} if family.frames else {}),
        "scheduler": {
            "class": type(family.pipe.scheduler).__name__,
            "config": _plain(family.pipe.scheduler.config),
        },
        "kind": kind_config(denoiser.kind),
        "samplings": {str(n): s.config() for n, s in samplings.items()},
        **({"companions": sorted(beside)} if beside else {}),
        "free_steps": free_steps,
        "info": info,
        **(more or {}),
    }

    def build(place: Path) -> None:
        if form == "scheduler":
            _write_scheduler(place, choice)
            facts.form = form
            _write_about(place, facts, {**about, "form": form, "base": fingerprint(denoiser.net)})
            return
        if form != "lora":
            _write_full(place, facts, denoiser, about, fixed_guidance)
            for name, denoiser_of in beside.items():
                net = held_like(_plain_net(denoiser_of), family.network)
                net.save_pretrained(str(place / name), safe_serialization=True)
        if form != "full":
            assert isinstance(denoiser, Adapted)
            inner, name = (
                (place, facts.name)
                if form == "lora"
                else (place / LORA_FOLDER, f"{facts.name}/{LORA_FOLDER}")
            )
            _write_lora(inner, Facts(family, info, samplings, choice, "lora", name, **kept), denoiser, about)
            for name, adapter in beside.items():
                if isinstance(adapter, Adapted):
                    (inner / name).mkdir()
                    write_lora(inner / name, family.part, adapter, about)
        forget_places(place)

    replace_folder(folder, build)
    return folder


def write_pipeline(folder: str | Path, family: Family) -> Path:
    """A pipeline as it was opened, as a folder of Diffusers; whole or not at all.

    Arguments:
        folder: to write, new or empty.
        family: of the pipeline.

    Returns:
        The folder; raises :class:`StillhouseError` for one that holds anything.
    """
    folder = Path(folder)
    require(
        not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
        f"'{folder}' is not empty; give a new name.",
    )

    def build(place: Path) -> None:
        with quiet():
            family.pipe.save_pretrained(str(place), safe_serialization=True)
        forget_places(place)

    replace_folder(folder, build)
    return folder


def forget_places(place: Path) -> None:
    """Take out where on this machine the parts came from: nobody who is given the folder should read it."""
    for file in place.rglob("*.json"):
        config = json_of(file, (dict, list))
        if isinstance(config, dict) and Path(str(config.get("_name_or_path") or "")).is_absolute():
            del config["_name_or_path"]
            file.write_text(json.dumps(config, indent=2) + "\n")


def _write_full(
    place: Path, facts: Facts, denoiser: Denoiser, about: dict[str, Any], fixed_guidance: bool
) -> None:
    family, choice = facts.family, facts.choice
    net: Any = held_like(_plain_net(denoiser), family.network)
    if fixed_guidance and all(s.guidance == 1 for s in facts.samplings.values()):
        scale_width = net.config.get("time_cond_proj_dim")
        net = with_idle_input(net)
        facts.no_scale = net.config.get("time_cond_proj_dim") != scale_width
    pipe = _with(family.pipe, family.part, net, choice)
    with quiet():
        pipe.save_pretrained(str(place), safe_serialization=True)
    _write_scheduler(place, choice)
    if choice.own:
        index = json_of(place / INDEX)
        index["scheduler"] = ["few_step_scheduler", choice.name]
        (place / INDEX).write_text(json.dumps(index, indent=2))
    _write_about(place, facts, {**about, "form": "full", "idle_input": facts.no_scale})


def _companion(family: Family, name: str, module: nn.Module) -> Denoiser:
    """A companion that can be saved in a pipeline's folder: another denoiser of the same class of network."""
    foreign = (
        f"The companion '{name}' is no network of the {type(family.pipe).__name__} that it would be saved "
        "with."
    )
    denoiser = required_type(module, Denoiser, foreign)
    require(isinstance(_plain_net(denoiser), type(family.network)), foreign)
    taken = name in family.pipe.components or name == LORA_FOLDER
    require(
        name.isidentifier() and not taken, f"A companion can't be called '{name}' in a pipeline's folder."
    )
    return denoiser


def _plain_net(denoiser: Denoiser) -> Any:
    """The network alone, with the adapter folded in if it is one."""
    return denoiser.merged().net if isinstance(denoiser, Adapted) else denoiser.net


def held_like(net: nn.Module, base: nn.Module) -> Any:
    """A network that learned in float32, in the precision of the network that it was made of.

    Arguments:
        net: the network, left as it is.
        base: the pipeline's own, weight by weight.

    Returns:
        The network itself where nothing differs, else a copy.
    """
    dtypes = {name.replace(".base_layer", ""): p.dtype for name, p in base.named_parameters()}
    usual = held_in(base)
    if all(p.dtype == dtypes.get(name, usual) for name, p in net.named_parameters()):
        return net
    twin = copy.deepcopy(net)
    for name, p in twin.named_parameters():
        p.data = p.data.to(dtypes.get(name, usual))
    return twin


def _write_lora(place: Path, facts: Facts, student: Adapted, about: dict[str, Any]) -> None:
    place.mkdir(exist_ok=True)
    about = {**about, "form": "lora", "idle_input": False, "base": fingerprint(student.net)}
    write_lora(place, facts.family.part, student, about)
    facts.kohya = write_kohya(place, student, about)
    _write_scheduler(place, facts.choice)
    _write_about(place, facts, about)


def _write_about(place: Path, facts: Facts, about: dict[str, Any]) -> None:
    (place / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
    (place / "README.md").write_text(card(facts), encoding="utf-8")


def _write_scheduler(place: Path, choice: Choice) -> None:
    shutil.rmtree(place / "scheduler", ignore_errors=True)
    choice.scheduler.save_pretrained(str(place / "scheduler"))
    if choice.own:
        shutil.copyfile(
            Path(__file__).with_name("few_step_scheduler.py"), place / "scheduler" / "few_step_scheduler.py"
        )


def _with(pipe: Any, part: str, net: nn.Module, choice: Choice) -> Any:
    """The pipeline with another network and, as far as it is a stock one, another scheduler; the original
    keeps its own."""
    if type(pipe).__name__ == "DDIMPipeline" and choice.name != "DDIMScheduler":
        from diffusers import DDPMPipeline  # the one with the same parts that takes any scheduler

        return DDPMPipeline(**{part: net, "scheduler": pipe.scheduler if choice.own else choice.scheduler})
    twin = copy.copy(pipe)
    twin.register_modules(**{part: net} | ({} if choice.own else {"scheduler": choice.scheduler}))
    return twin


def replace_folder(folder: Path, build: Callable[[Path], None]) -> None:
    """Fill a new folder, then put it in the place of an old one, which is empty or holds a saved student.

    Arguments:
        folder: the place; it need not exist.
        build: called with the new folder, which lies beside it.
    """
    require(
        not folder.exists()
        or (folder.is_dir() and ((folder / ABOUT).is_file() or not any(folder.iterdir()))),
        f"'{folder}' holds something else than a saved student; give a new name.",
    )
    folder = folder.resolve()
    old = folder.with_name(f".{folder.name}.old")

    def put_back() -> None:  # where this process, or one before it, was stopped between the two moves
        if old.exists() and not folder.exists():
            os.replace(old, folder)

    try:
        put_back()
        with part_of(folder, folder=True) as part:
            build(part)
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                os.replace(folder, old)
            os.replace(part, folder)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StillhouseError(f"Can't write '{folder}': {reason}.") from error
    finally:
        put_back()
        shutil.rmtree(old, ignore_errors=True)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A Diffusers configuration as JSON holds it."""
    own = {k: v for k, v in config.items() if not k.startswith("_")}
    text = json.dumps(own, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))
    plain: dict[str, Any] = json.loads(text)
    return plain
