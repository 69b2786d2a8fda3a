"""Students of the shipped pipeline as LoRAs, measured through plain Diffusers: ``python -m
tools.pipeline_students [SLUG …]``.

Each is distilled once into ``runs/pipeline-students/SLUG`` (a run that was cut short goes on where it was)
and drawn by a process that imports Diffusers alone, at every number of steps that its folder names. The table
goes to ``docs/choose.md``, with the picture of ``tools.pipeline_picture`` beside it in the README.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from stillhouse.api.runs import distill
from stillhouse.io.weights import atomic_write
from stillhouse.opening import load, shipped
from stillhouse.worlds.shapes.world import Shapes
from tools.plain import plain_pictures

TEACHER = "shapes-pipeline"
WORK = Path("runs/pipeline-students")
PAGE = Path(__file__).parents[1] / "docs" / "choose.md"
MARKS = re.compile(r"(<!-- pipeline students -->\n).*?(<!-- /pipeline students -->)", re.DOTALL)
GUIDANCE = 3.0  # of the teacher, folded into every student
SAMPLES = 300  # of training captions
TEACHER_STEPS = (25, 8, 4, 2, 1)
METRICS = {
    "fidelity": "fidelity",
    "frechet": "Fréchet",
    "recall": "recall",
    "high_band_ratio": "high band (1 is data)",
}
RUN: dict[str, Any] = {
    "lora": 32,
    "lora_targets": "all",
    "batch": 16,
    "ema": 0.98,
    "schedule": "cosine",
    "save_every": 50,
    "keep_checkpoints": 1,
    "seed": 0,
}
STUDENTS: dict[str, dict[str, Any]] = {
    "lcm": {
        "iterations": 300,
        "low_guidance": GUIDANCE,
        "high_guidance": GUIDANCE,
        "decay": 0.0,
        "steps": 4,
        "levels": 20,
        "lr": {"student": 3e-4},
    },
    "dmd2": {
        "iterations": 200,
        "guidance": GUIDANCE,
        "gan_weight": 0.0,
        "fake_per_student": 2,
        "lr": {"student": 5e-4, "fake": 1.5e-3},
    },
    "hyper_sd": {
        "iterations": 200,
        "guidance": GUIDANCE,
        "segments": 8,
        "last_segments": 4,
        "levels": 40,
        "lr": {"student": 1e-3},
    },
    "sdxl_lightning": {
        "iterations": 200,
        "guidance": GUIDANCE,
        "ladder": (40, 8, 4),
        "plain": 2,
        "lr": {"student": 1e-3},
    },
    "flash_diffusion": {
        "iterations": 150,
        "low_guidance": GUIDANCE,
        "high_guidance": GUIDANCE,
        "grid": 16,
        "steps": 4,
        "lr": {"student": 1e-3, "critic": 1e-3},
    },
}


def student_of(slug: str, work: Path = WORK, quiet: bool = False, **changed: Any) -> Path:
    """The folder of a student's pipeline, trained where it is not there.

    Arguments:
        slug: the system.
        work: where the runs are kept.
        quiet: no progress bar.
        changed: options in the place of the settings' own.

    Returns:
        The folder ``model`` of the run.
    """
    out = work / slug
    if not (out / "model").is_dir():
        options = {**RUN, **STUDENTS[slug], **changed}
        distill(TEACHER, slug, out=out, resume=(out / "run.yaml").is_file(), quiet=quiet, **options)
    return out / "model"


def rows_of(
    name: str, folder: Path, ways: dict[int, int], guidance: float, world: Shapes, n: int = SAMPLES
) -> list[dict[str, Any]]:
    """The rows of one pipeline.

    Arguments:
        name: in the first column.
        folder: of the pipeline.
        ways: calls of the network by number of steps.
        guidance: the scale that the pipeline is called with.
        world: whose captions are asked for, and whose metrics are measured.
        n: samples of each way.

    Returns:
        A row a way: ``system``, ``steps``, ``calls`` and the metrics.
    """
    ids = world.balanced_labels(n)
    prompts = [world.captions[i] for i in ids.tolist()]
    jobs = {str(steps): {"prompts": prompts, "steps": steps, "guidance": guidance} for steps in ways}
    made = plain_pictures(folder, jobs)
    return [
        {
            "system": name,
            "steps": steps,
            "calls": calls,
            **{title: f"{found[key]:.3g}" for key, title in METRICS.items()},
        }
        for steps, calls in ways.items()
        for found in [world.measure(made[str(steps)], ids)]
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]) + "\n"


def write(rows: list[dict[str, Any]], page: Path = PAGE) -> None:
    """Put the table of ``rows`` between its marks on a page."""
    text = page.read_text(encoding="utf-8")
    atomic_write(page, MARKS.sub(lambda found: found[1] + table(rows) + found[2], text).encode())


def main(slugs: list[str]) -> None:
    """Train and measure ``slugs``, or all, and write the table."""
    world, rows = Shapes(), []
    for slug in slugs or STUDENTS:
        folder = student_of(slug)
        ways = {steps: steps for steps in sorted(load(folder).samplings)}
        rows += rows_of(f"`{slug}`, {STUDENTS[slug]['iterations']} iterations", folder, ways, 1.0, world)
        print(table(rows[-len(ways) :]), flush=True)
    calls = {steps: 2 * steps for steps in TEACHER_STEPS}
    rows += rows_of(f"teacher, w = {GUIDANCE:g}", Path(shipped()[TEACHER]), calls, GUIDANCE, world)
    write(rows)
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
