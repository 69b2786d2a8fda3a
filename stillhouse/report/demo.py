"""The demo: a network and a Diffusers pipeline, three distillations, one page; five minutes on two cores.

It owns its folder: results are made in ``OUT.tmp`` and take the place of earlier ones in one move. A folder
without its mark is never touched.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.api.evaluate import evaluate
from stillhouse.api.evaluation import EVALUATION
from stillhouse.api.options import fields_of
from stillhouse.api.runs import distill
from stillhouse.core.errors import require
from stillhouse.io.weights import atomic_write
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.report.figures import calls, duration
from stillhouse.report.page import write_report
from stillhouse.report.plots import number
from stillhouse.systems.registry import find
from stillhouse.train.journal import read
from stillhouse.worlds.base import World, get_world

MARK = ".stillhouse-demo"
# one call from nothing but conditions, at a pace for a minute or two
ONE_CALL: dict[str, Any] = {
    "batch": 32,
    "lr": {"student": 5e-4, "fake": 1.5e-3},
    "schedule": "cosine",
    "ema": 0.95,
    "fake_per_student": 1,
    "gan_weight": 0.0,
    "first_time": 0.75,
}
CONSISTENT: dict[str, Any] = {
    "batch": 64,
    "lr": {"student": 5e-4},
    "schedule": "cosine",
    "ema": 0.97,
    "levels": 9,
    "steps": 2,
}
# by world and method: iterations on a machine that is fast enough, and the seconds that others may spend
DIGITS = {
    "dmd2": {"seconds": 95, "iterations": 900, **ONE_CALL},
    "cm": {"seconds": 28, "iterations": 500, **CONSISTENT},
}
# a LoRA of a Diffusers pipeline, as its owner would make it (LCM-LoRA)
ADAPTED: dict[str, Any] = {
    "batch": 16,
    "lora": 32,
    "lora_targets": "all",
    "lr": {"student": 1e-3},
    "schedule": "cosine",
    "ema": 0.97,
    "decay": 0.0,
    "levels": 20,
    "steps": 4,
}
SCENES = {"lcm": {"seconds": 68, "iterations": 400, **ADAPTED}}
TEACHERS = {"shapes": "shapes-pipeline"}  # of a world whose own teacher is not the one to show
RECIPES: dict[str, dict[str, dict[str, Any]]] = {"mnist": DIGITS, "shapes": SCENES}
TEACHER_STEPS = {"mnist": (1, 2, 4, 8, 16, 64), "shapes": (1, 2, 4)}
SHARE = {"shapes": 0.3}  # of the samples: this world's teacher takes longer
TEACHER_SOLVER = "dpm++"  # one call a step, and good with few of them: the student's strongest baseline
SAMPLES = 400
FEWEST = 64  # samples of a slow machine, which measures as many as its teacher makes in so many seconds:
MEASURING = {"mnist": 60, "shapes": 50}
BESIDE = 12  # seconds around each training: measuring its pace, opening files, the student's own figures
PAGE = 40  # seconds of the page
WHOLE = 255  # seconds of all of it; on a slow machine each part gives its share
TRIAL = 5  # iterations that measure how fast this machine is; the first of them pays for imports
TRIED = 32  # samples that do


class Plan:
    """The seconds of the parts to come, shortened alike where those before took longer than planned.

    Arguments:
        whole: seconds until the end of the last part.
        parts: seconds that each would take if there were enough, in their order.
    """

    def __init__(self, whole: float, parts: Sequence[float]):
        self.end, self.parts = time.perf_counter() + whole, list(parts)

    def take(self) -> float:
        """Seconds of the next part."""
        left = max(0.0, self.end - time.perf_counter())
        planned = sum(self.parts)
        return self.parts.pop(0) * min(1.0, left / planned)


def main(
    out: str | Path = "runs/demo",
    teacher: str | Path | None = None,
    *,
    recipes: Mapping[str, Mapping[str, Mapping[str, Any]]] = RECIPES,
    n: int = SAMPLES,
    seed: int = 0,
    quiet: bool = False,
) -> Path:
    """Distil the shipped teachers and write ``out/report.html``, a part for each world.

    ``teacher``: a model file or folder to take the place of the first world's. ``recipes``: by world and
    method, the options of :func:`stillhouse.api.runs.distill`, and ``seconds``: shorten the run to fit them.
    ``n``: samples measured of each model at most. Also leaves ``out/metrics.json`` and a run folder for each
    student. Raises :class:`StillhouseError` for a teacher of another world, and for a folder that holds
    anything but an earlier demo.
    """
    began = time.perf_counter()
    plan, out = Plan(WHOLE, _parts(recipes)), Path(out)
    sources = {
        name: str(teacher) if teacher and not index else TEACHERS.get(name, name)
        for index, name in enumerate(recipes)
    }
    masters = {name: _fitting(load(source), get_world(name)) for name, source in sources.items()}
    work = _claim(out)

    def show(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    results: dict[str, dict[str, Any]] = {}
    runs = []
    for name, students in recipes.items():
        source, master, world = sources[name], masters[name], get_world(name)
        show(f"\nTeacher: {source}, {master.parameters:,} weights.")
        results[name], samples = {}, 0
        for index, (slug, recipe) in enumerate(students.items()):
            options = _options(slug, recipe, master, seed)
            plan.take()  # of what stands beside the training
            if "seconds" in recipe:
                pace = _pace(source, slug, world, options, work / "trial")
                options["iterations"] = max(TRIAL, min(options["iterations"], int(plan.take() / pace)))
            show(f"\nDistilling with {slug}, {options['iterations']} iterations.")
            runs.append(work / name / slug)
            student = distill(source, slug, world=world, out=runs[-1], quiet=quiet, **options)
            show("Measuring it beside its teacher." if index == 0 else "Measuring it.")
            if index == 0:
                most = max(16, round(n * SHARE.get(name, 1.0)))
                samples = _samples(name, master, most, plan.take())
            results[name][slug] = evaluate(
                student,
                world,
                teacher=master
                if index == 0
                else None,  # the teacher is measured once, beside the first student
                n=samples,
                seed=seed,
                teacher_steps=TEACHER_STEPS[name],
                teacher_solver=TEACHER_SOLVER,
                show=not quiet,
            )
            atomic_write(runs[-1] / EVALUATION, (json.dumps(results[name][slug], indent=2) + "\n").encode())
    show("\nDrawing the page.")
    write_report(
        runs, work / "report.html", title=f"{', '.join(Path(s).stem for s in sources.values())}, distilled"
    )
    summary = {"teachers": sources, "seconds": round(time.perf_counter() - began, 1), "students": results}
    atomic_write(work / "metrics.json", (json.dumps(summary, indent=2) + "\n").encode())
    _swap(work, out)
    show("\n" + "\n\n".join(_summary(found) for found in results.values()))
    show(f"\nDone in {duration(time.perf_counter() - began)}. Look at {out / 'report.html'}")
    return out / "report.html"


def _fitting(teacher: Model, world: World) -> Model:
    # latents of a pipeline that names the world become its pictures
    made = world.shape if teacher.codec and teacher.world == world.name else teacher.shape
    require(
        tuple(made) == tuple(world.shape) and teacher.classes in (0, world.classes),
        f"The demo distils teachers of {world.name}, with samples of shape {tuple(world.shape)} and "
        f"{world.classes} classes (or none); "
        f"this one makes {tuple(made)} and has {teacher.classes}. For any other use `stillhouse "
        "distill`.",
    )
    require(
        teacher.free_steps,
        "The demo needs a many-step teacher; this model is a student that samples in a fixed number of "
        "steps.",
    )
    return teacher


def _parts(recipes: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[float]:
    """The plan's seconds in the order in which :func:`main` takes them."""
    parts: list[float] = []
    for name, students in recipes.items():
        for index, recipe in enumerate(students.values()):
            parts += [BESIDE, *([recipe["seconds"]] if "seconds" in recipe else [])]
            parts += [MEASURING[name]] if index == 0 else []
    return [*parts, PAGE]


def _options(slug: str, recipe: Mapping[str, Any], master: Model, seed: int) -> dict[str, Any]:
    """The recipe as options of a run; a guided teacher is distilled as it is sampled."""
    options = {k: v for k, v in recipe.items() if k != "seconds"}
    for name in {"guidance", "low_guidance", "high_guidance"} & set(fields_of(find(slug))):
        options.setdefault(name, master.sampling().guidance)
    return {**options, "seed": seed}


def _pace(teacher: str, slug: str, world: World, options: Mapping[str, Any], folder: Path) -> float:
    """Seconds of one iteration here, by a short run in a folder that is gone after it."""
    short = {**options, "iterations": TRIAL, "log_every": 1}
    distill(teacher, slug, world=world, quiet=True, out=folder, **short)
    seconds = [float(row["seconds"]) for row in read(folder / "metrics.jsonl") if "seconds" in row]
    shutil.rmtree(folder)
    return max(1e-6, float(statistics.median(seconds[1:])))


def _samples(world: str, teacher: Model, most: int, seconds: float) -> int:
    """How many samples all of the teacher's ways can make in so many seconds here, up to ``most``."""
    calls = sum({*TEACHER_STEPS[world], next(iter(teacher.samplings))})
    teacher.sample(TRIED, steps=1)  # pays for what only the first call does
    began = time.perf_counter()
    teacher.sample(TRIED, steps=2)
    affordable = seconds * TRIED * 2 / (time.perf_counter() - began) / calls
    return max(min(FEWEST, most), min(most, int(affordable)))


def _claim(out: Path) -> Path:
    """An empty, marked folder to work in, beside ``out``; leftovers of a demo that was cut off are cleared
    away."""
    work, old = _beside(out)
    for folder in (out, work, old):
        mine = not folder.exists() or (
            folder.is_dir() and ((folder / MARK).exists() or not any(folder.iterdir()))
        )
        require(
            mine, f"'{folder}' holds something that the demo did not make; name another folder with --out."
        )
    if old.exists() and not out.exists():
        old.rename(out)
    for folder in (work, old):
        shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARK).write_text("Made by `stillhouse demo`, which replaces this folder each time it runs.\n")
    return work


def _swap(work: Path, out: Path) -> None:
    _, old = _beside(out)
    if out.exists():
        out.rename(old)
    work.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path) -> tuple[Path, Path]:
    return out.with_name(out.name + ".tmp"), out.with_name(out.name + ".old")


def _summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures that matter, a line each."""
    first = next(iter(results.values()))
    key = first["metric"]
    rows = [("teacher", r) for r in first["rows"] if r["who"] == "teacher"]
    rows += [(slug, r) for slug, found in results.items() for r in found["rows"] if r["who"] == "student"]
    lines = [
        f"{name:<14}{calls(r['nfe']):>10}{number(r['metrics'][key]):>12}{duration(r['seconds_per_sample']):>12}"
        for name, r in rows
    ]
    lines.append(f"{'real data':<24}{number(first['floor'].get(key)):>12}")
    return "\n".join([f"{'':<14}{'':>10}{first['metrics'][key]['title'][:11]:>12}{'per sample':>12}", *lines])
