"""The model card beside a saved student: README.md with the metadata that model hubs read."""

from __future__ import annotations

import html
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from stillhouse.io.export.kohya import KOHYA
from stillhouse.io.export.schedulers import Choice, Habits
from stillhouse.io.export.walks import Sampled
from stillhouse.io.pipelines import Family
from stillhouse.io.pipelines.folder import title_of
from stillhouse.io.plain_yaml import yaml_of

LONGEST = 200  # characters of a value in a card
LICENCE = ("license", "license_name", "license_link")
PROMPT = "a red circle above a blue square"
CONTROL = """## A ControlNet for it

The U-Net has an input for the guidance scale, which `ControlNetModel.from_unet` does not copy and refuses;
take it off a copy. The pipeline goes on with its own U-Net.

```python
import copy
from diffusers import ControlNetModel

plain = copy.deepcopy(pipe.unet)
plain.time_embedding.cond_proj = None
control = ControlNetModel.from_unet(plain)
```
"""
HEADS = {"full": "A student of", "lora": "A LoRA of", "scheduler": "A scheduler for"}


@dataclass
class Facts:
    """What a card tells. ``form``: full, lora or scheduler; ``takes_guidance``: the network takes the
    guidance scale; ``no_scale``: as an input without effect; ``kohya``: there is a file under kohya's
    names."""

    family: Family
    info: Mapping[str, Any]
    samplings: Mapping[int, Sampled]
    choice: Choice
    form: str
    name: str
    takes_guidance: bool = False
    no_scale: bool = False
    free_steps: bool = False
    kohya: bool = False

    @property
    def doubles(self) -> bool:
        """Whether the pipeline evaluates twice where its ``guidance_scale`` is above 1."""
        return not self.no_scale and not self.takes_guidance and Habits.of(self.family.pipe).doubles

    @property
    def steps(self) -> int:
        return next(iter(self.samplings))

    @property
    def guidance(self) -> float:
        return self.samplings[self.steps].guidance

    @property
    def base(self) -> str:
        """The teacher's name, without the path to it."""
        return _base_name(self.family, self.info)

    @property
    def method(self) -> str:
        return str(self.info.get("method", "distillation"))


def words(value: object) -> str:
    """A value as plain text in Markdown: it makes no tags, no markup, no row and no line of its own."""
    text = " ".join(str(value).split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return re.sub(r"([\\`*\[\]|#])", r"\\\1", html.escape(text, quote=False))


def code(value: object) -> str:
    """A value as a span of code in Markdown."""
    text = " ".join(str(value).replace("`", "'").split())
    return f"`{text[:LONGEST]}`"


def literal(text: str) -> str:
    """A text as Python has it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _base_name(family: Family, info: Mapping[str, Any]) -> str:
    """``owner/name`` of a hub model, wherever its snapshot lies, else the name of the teacher's folder."""
    name = str(getattr(family.pipe.config, "_name_or_path", "") or "")
    if family.folder is None and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    return title_of(str(family.folder or info.get("teacher") or "teacher"))


def teacher_card(family: Family) -> dict[str, Any]:
    """The metadata of the teacher's own card; empty where there is none that can be read."""
    readme = None if family.folder is None else family.folder / "README.md"
    if readme is None or not readme.is_file():
        return {}
    found = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        pred = yaml_of(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return pred if isinstance(pred, dict) else {}


def card(facts: Facts) -> str:
    """The text of README.md."""
    teacher = teacher_card(facts.family)
    meta: dict[str, Any] = {"library_name": "diffusers"}
    meta |= {key: teacher[key] for key in LICENCE if key in teacher}
    known = facts.base if "/" in facts.base else teacher.get("base_model")
    meta |= {"base_model": known} if known else {}
    if facts.family.tokenizers:
        meta["pipeline_tag"] = "text-to-video" if facts.family.frames else "text-to-image"
    else:
        meta |= {} if facts.family.classes else {"pipeline_tag": "unconditional-image-generation"}
    meta["tags"] = [
        "diffusers",
        "stillhouse",
        "distillation",
        facts.method,
        *(["lora"] if facts.form == "lora" else []),
    ]
    pred = [*guidance_remarks(facts), *_scheduler_remarks(facts), *facts.choice.remarks]
    if facts.kohya:
        pred.append(
            f"`{KOHYA}` is the same adapter for ComfyUI and A1111's web interface: put it among their "
            "LoRAs under "
            f"a name of yours, at strength 1, with {_count(facts)} and CFG {float(facts.guidance):.4g}."
        )
    parts = [
        f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---\n",
        f"# {words(facts.base.rpartition('/')[2])} in {_count(facts)}\n",
        f"{HEADS[facts.form]} **{words(facts.base)}** that samples in {_count(facts)}, "
        f"{'searched' if facts.form == 'scheduler' else 'distilled'} with the method {code(facts.method)} of "
        "Stillhouse.\n",
        f"## How to call it\n\n```python\n{snippet(facts)}```\n",
        "".join(f"- {sentence}\n" for sentence in pred),
        CONTROL if _hides_an_input(facts) else "",
        _table("Measured", facts.info.get("measured") or facts.info.get("metrics")),
        _table(
            "How it was made",
            {"method": facts.method, "teacher": facts.base, **(facts.info.get("options") or {})},
        ),
    ]
    if "license" not in teacher:
        parts.append(
            "## Licence\n\nThe teacher's folder names no licence; its terms hold for this student as well.\n"
        )
    return "\n".join(part for part in parts if part)


def _hides_an_input(facts: Facts) -> bool:
    """Whether the saved U-Net has a guidance input, real or idle, that a ControlNet can't be made with."""
    grown = facts.no_scale or facts.takes_guidance
    return facts.form == "full" and grown and hasattr(facts.family.network, "time_embedding")


def _count(facts: Facts) -> str:
    if facts.free_steps:
        return "any number of steps"
    *most, last = map(str, sorted(facts.choice.steps))
    counts = f"{', '.join(most)} or {last}" if most else last
    return f"{counts} step{'s' if facts.choice.steps != [1] else ''}"


def snippet(facts: Facts) -> str:
    """Python that opens and calls the student, run from the folder that it lies in."""
    trust = ", trust_remote_code=True" if facts.choice.own and facts.form == "full" else ""
    opened = facts.name if facts.form == "full" else facts.base
    weightless = facts.form == "scheduler"
    lines = [
        "from diffusers import DiffusionPipeline",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({literal(opened)}{trust})",
    ]
    if facts.form != "full":
        part = facts.family.part
        if weightless:
            pass
        elif hasattr(facts.family.pipe, "load_lora_weights"):
            lines.append(f"pipe.load_lora_weights({literal(facts.name)})")
        else:
            lines = [
                "from peft import PeftModel",
                *lines,
                f"pipe.{part} = PeftModel.from_pretrained(pipe.{part}, {literal(facts.name)})"
                ".merge_and_unload()",
            ]
        if facts.choice.own:
            lines = [
                "import sys",
                *lines,
                f"sys.path.insert(0, {literal(facts.name + '/scheduler')})",
                "from few_step_scheduler import FewStepScheduler",
            ]
        else:
            lines = [f"from diffusers import {facts.choice.name}", *lines]
        lines.append(
            f"pipe.scheduler = {facts.choice.name}.from_pretrained({literal(facts.name)}, "
            'subfolder="scheduler")'
        )
    made = "clip = pipe({}).frames[0]" if facts.family.frames else "image = pipe({}).images[0]"
    lines.append(made.format(", ".join(call_options(facts))))
    return "\n".join(lines) + "\n"


def call_options(facts: Facts) -> list[str]:
    """The arguments of the pipeline's call."""
    family = facts.family
    accepted = inspect.signature(type(family.pipe).__call__).parameters
    pred = (
        [f'"{PROMPT}"']
        if family.tokenizers
        else ["class_labels=[0]"]
        if family.classes and "class_labels" in accepted
        else []
    )
    pred.append(f"num_inference_steps={facts.steps}")
    if facts.doubles or facts.guidance != 1:
        pred.append(
            f"guidance_scale={float(facts.guidance):.4g}" if facts.guidance != 1 else "guidance_scale=1.0"
        )
    sides = family.side
    if family.shape[-2:] != tuple(sides) and "height" in accepted:
        pred.append("height={}, width={}".format(*family.size))
    if family.frames and accepted["num_frames"].default != family.frames:
        pred.append(f"num_frames={family.frames}")
    return pred


def guidance_remarks(facts: Facts) -> list[str]:
    """What a user must consider about ``guidance_scale``."""
    parameters = inspect.signature(type(facts.family.pipe).__call__).parameters
    if "guidance_scale" not in parameters:
        return []
    default = parameters["guidance_scale"].default
    if facts.no_scale:
        return [
            "The student needs no guidance: the pipeline evaluates once a step, whatever its "
            "`guidance_scale`."
        ]
    if facts.guidance != 1:
        guidance_note = (
            "costs a second evaluation a step"
            if facts.doubles
            else "is an input of the network and costs nothing"
        )
        return [f"`guidance_scale` {guidance_note}; the student is sampled at {facts.guidance:g}."]
    if not facts.doubles:
        return []
    return [
        "Always pass `guidance_scale=1.0`: the student needs no guidance, the pipeline's own default is "
        f"{default:g}, and no setting of a "
        "folder changes that. More doubles the cost and oversaturates."
    ]


def _scheduler_remarks(facts: Facts) -> list[str]:
    if facts.free_steps:
        return [
            f"The scheduler is the teacher's, {facts.choice.name}; any other of its kind may take its place."
        ]
    if not facts.choice.own:
        return [
            f"The scheduler in this folder, {facts.choice.name}, walks exactly as the student was made to; "
            "keep it."
        ]
    return [
        "No stock scheduler of Diffusers walks as this student does, so the folder brings "
        "`scheduler/few_step_scheduler.py` (one page, no "
        "dependencies beyond diffusers), which Diffusers runs only with `trust_remote_code=True`."
    ]


def _table(title: str, values: Mapping[str, Any] | None) -> str:
    if not values:
        return ""
    rows = "\n".join(
        f"| {words(key)} | {words(value)} |" for key, value in values.items() if not isinstance(value, dict)
    )
    return f"## {title}\n\n| | |\n|---|---|\n{rows}\n"
