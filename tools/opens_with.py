"""Which scheduler students are saved with: the table of ``docs/choose.md``, made of what is saved.

    python -m tools.opens_with

Each system is set up, untrained, on a tiny Stable Diffusion pipeline, and its product is saved and looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stillhouse.io.pipelines import open_pipeline, tiny
from stillhouse.io.weights import atomic_write
from stillhouse.model import Model
from stillhouse.opening import from_pipeline
from stillhouse.systems.registry import find

PAGE = Path(__file__).parents[1] / "docs" / "choose.md"
PLACE = re.compile(r"(?<=<!-- opens with -->\n).*(?=<!-- /opens with -->)", re.S)
# system, its options, and what guidance does afterwards
ROWS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("lcm", {}, "none"),
    ("lcm", {"low_guidance": 3.0, "high_guidance": 9.0}, "`w` as an input"),
    ("dmd2", {"steps": 4, "gan_weight": 0.0}, "none"),
    ("dmd2", {"first_time": 0.4, "gan_weight": 0.0}, "none"),
    ("dmd2", {"first_time": 0.4, "unit_noise": True, "gan_weight": 0.0}, "none"),
    ("dmd", {"first_time": 0.4}, "none"),
    ("sid", {"first_time": 0.4}, "none"),
    ("swiftbrush", {"first_time": 0.4}, "none"),
    ("snoopi", {"first_time": 0.4}, "none"),
    ("sdxl_lightning", {"ladder": (128, 32, 8, 4)}, "none"),
    ("sdxl_lightning", {"x0_student": True}, "none"),
    ("progressive", {"teacher_steps": 64, "steps": 4}, "none"),
    ("guided_distillation", {"steps": 4}, "`w` as an input"),
    ("hyper_sd", {"last_segments": 4}, "none"),
    ("flash_diffusion", {}, "none"),
    ("lora_distill", {}, "none, folded in"),
    ("icd", {}, "dynamic"),
)


def product(teacher: Model, slug: str, options: Mapping[str, Any]) -> Model:
    """What a run of the system ends with, but for its weights."""
    method = find(slug)(**options)
    method.setup(teacher.denoiser, method.make_student(teacher.denoiser), teacher.shape, True, 100)
    method.stage = len(method.plan) - 1
    made = method.product(teacher)
    assert isinstance(made, Model)
    return made


def opens_with(folder: Path) -> str:
    """The scheduler of a saved pipeline, with how it spaces its steps; or that a file of the folder is
    one."""
    module, name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["scheduler"]
    if module != "diffusers":
        return f"`{module}.py` in the folder (`trust_remote_code=True`)"
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    spacing = "" if name == "LCMScheduler" else f", `{config.get('timestep_spacing', 'leading')}`"
    return f"`{name}`{spacing}"


def row(teacher: Model, slug: str, options: Mapping[str, Any], guidance: str, folder: Path) -> str:
    """One row of the table."""
    made = product(teacher, slug, options)
    made.save_pretrained(folder)
    words = "".join(
        f" --{name.replace('_', '-')} {','.join(map(str, v)) if isinstance(v, tuple) else str(v).lower()}"
        for name, v in options.items()
        if name != "gan_weight"
    )
    calls = "any" if made.free_steps else ", ".join(map(str, made.samplings))
    scheduler = "the teacher's own" if made.free_steps else opens_with(folder)
    return f"| `{slug}{words}` | {calls} | {guidance} | {scheduler} |"


def table() -> str:
    """The whole table."""
    lines = ["| | calls | guidance afterwards | opens in plain Diffusers with |", "|---|---|---|---|"]
    with TemporaryDirectory() as place:
        base = tiny.build("sd", Path(place) / "base")
        for number, (slug, options, guidance) in enumerate(ROWS):
            teacher = from_pipeline(open_pipeline(base))
            lines.append(row(teacher, slug, options, guidance, Path(place) / str(number)))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into its place."""
    page = PAGE.read_text(encoding="utf-8")
    atomic_write(PAGE, PLACE.sub(lambda _: table(), page).encode())


if __name__ == "__main__":
    main()
