"""The proof: a student saved as a folder or a LoRA gives in plain Diffusers, in another process, what it
gives here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stillhouse.adapters import Adapted
from stillhouse.api.runs import distill
from stillhouse.io.pipelines import open_pipeline, tiny
from stillhouse.io.pipelines.flux import pack, unpack
from stillhouse.model import Model
from stillhouse.opening import from_pipeline, load
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Sampling

PROMPTS = ["a red circle above a blue square", "small cat"]
SEED = 11
ODD = {3: Sampling([1.0, 0.6123, 0.2, 0.0], {"name": "renoise", "gamma": 0.3})}
LCM = {"levels": 51, "solver": "ddim"}
DMD = {"gan_weight": 0.0, "lora": 4, "lora_alpha": 8.0}


@dataclass
class Case:
    """A student to be made. ``forms``: of ``full``, ``lora`` (Diffusers' file) and ``peft``; ``steps``:
    beside its default number."""

    kind: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    forms: tuple[str, ...] = ("full",)
    scheduler: str = ""
    steps: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.method}{'-adapter' if 'lora' in self.options else ''}"


CASES = [
    Case("sd", "lcm", {"steps": 4}, scheduler="LCMScheduler", steps=(2,)),
    Case("sd", "lcm", {"steps": 2, "lora": 4}, ("lora",), scheduler="LCMScheduler"),
    Case("sd", "sid", {"first_time": 0.7}, scheduler="EulerDiscreteScheduler"),
    Case("sd", "icd", {}, scheduler="FewStepScheduler"),
    Case("sd", "dmd2", {**DMD, "steps": 2}, ("full", "lora", "peft"), "LCMScheduler"),
    Case("sd", "odd", {}, scheduler="FewStepScheduler"),
    Case("sd2", "progressive", {"teacher_steps": 8, "steps": 4}, scheduler="DDIMScheduler"),
    Case("sd", "lora_distill", {"steps": 5}, ("full", "lora"), "DDIMScheduler"),
    Case(
        "sd",
        "hyper_sd",
        {"segments": 2, "last_segments": 1, "levels": 4, "iterations": 4},
        scheduler="DDIMScheduler",
    ),
    Case(
        "sd2",
        "guided_distillation",
        {"teacher_steps": 8, "steps": 4, "iterations": 4},
        scheduler="DDIMScheduler",
    ),
    Case("sdxl", "sdxl_lightning", {"ladder": (8, 4), "iterations": 4}, scheduler="DDIMScheduler"),
    Case("sdxl", "lcm", {"steps": 2, "low_guidance": 2.0, "high_guidance": 8.0}, scheduler="LCMScheduler"),
    Case("sdxl", "dmd2", {**DMD, "steps": 1}, ("full", "lora"), "DDIMScheduler"),
    Case("sdxl_edm", "odd", {}, scheduler="FewStepScheduler"),
    Case("sd3", "dmd2", {**DMD, "steps": 4}, ("full", "lora"), "FlowMatchEulerDiscreteScheduler"),
    Case("sd3", "odd", {}, scheduler="FewStepScheduler"),
    Case("flux", "dmd2", {**DMD, "steps": 2}, ("full", "lora"), "FlowMatchEulerDiscreteScheduler"),
    Case("flux", "odd", {}, scheduler="FewStepScheduler"),
    Case("pixart", "dmd2", {**DMD, "steps": 2}, ("full", "peft"), "LCMScheduler"),
    Case(
        "sana", "progressive", {"teacher_steps": 4, "steps": 2}, scheduler="FlowMatchEulerDiscreteScheduler"
    ),
    Case("dit", "dmd2", {**DMD, "steps": 2}, ("full", "peft"), "LCMScheduler"),
    Case("ddpm", "progressive", {"teacher_steps": 8, "steps": 4}, scheduler="DDIMScheduler"),
    Case("ddpm", "cm", {**LCM, "steps": 2}, scheduler="LCMScheduler"),
]


class Replay:
    """The noise that Diffusers draws: the first from a file or the pipeline's generator, the later ones from
    its scheduler's stream."""

    rows = 2

    def __init__(self, kind: str, first: Tensor | None):
        self.kind, self.first, self.stream = kind, first, torch.Generator().manual_seed(SEED)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        if self.kind == "dit":  # its pipeline hands no generator on: the scheduler draws from the global one
            return torch.randn(2, *shape, generator=torch.Generator().manual_seed(SEED + 1))
        return torch.randn(2, *shape, generator=self.stream) if self.first is None else self.first

    def normal_like(self, x: Tensor) -> Tensor:
        if self.kind == "flux":
            return unpack(torch.randn(pack(x).shape, generator=self.stream), *x.shape[-2:])
        return torch.randn(x.shape, generator=self.stream)


def student_of(case: Case, teacher: Model) -> Model:
    """A student of the method, moved far enough from its teacher to be told from it."""
    rows = torch.Generator().manual_seed(1)
    x = torch.randn(4, *teacher.shape, generator=rows)
    cond = teacher.text.encode(PROMPTS * 2) if teacher.text else torch.arange(4) if teacher.classes else None
    if case.method == "odd":
        student = replace(
            teacher, denoiser=teacher.denoiser.copy(), samplings=ODD, free_steps=False, info={"method": "odd"}
        )
    else:
        student = distill(
            teacher, case.method, data=(x, cond), batch=2, quiet=True, **{"iterations": 2, **case.options}
        )
    with torch.no_grad():
        for p in student.denoiser.parameters():
            p += 0.05 * torch.randn(p.shape, generator=rows)
    return student


def sampled(student: Model, case: Case, noise: Tensor | None, steps: int | None) -> Tensor:
    """What ``student.sample`` computes, with Diffusers' noise."""
    cond = student.text.encode(PROMPTS) if student.text else torch.tensor([3, 7]) if student.classes else None
    return draw_samples(
        student.denoiser.eval(), student.sampling(steps), student.shape, cond, Replay(case.kind, noise)
    )  # type: ignore[arg-type]


def call_of(case: Case, student: Model, steps: int) -> dict[str, Any]:
    """How a user calls the pipeline: as the model card says."""
    call: dict[str, Any] = {"num_inference_steps": steps}
    if student.text:
        call["prompt"] = PROMPTS
    if case.kind == "dit":
        call |= {"class_labels": [3, 7], "guidance_scale": 1.0}
    if case.kind in ("sd3", "pixart", "sana"):
        call["guidance_scale"] = 1.0
    if case.kind in ("pixart", "sana"):
        call["use_resolution_binning"] = False
    if case.kind == "flux":
        call |= {"height": 64, "width": 64}
    if student.denoiser.net.config.get("time_cond_proj_dim"):  # it hears the scale
        call["guidance_scale"] = student.sampling().guidance
    return call  # SD and SDXL at their default scale of guidance, which must not matter


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def results(root: Path) -> dict[str, dict[str, Any]]:
    """Every case's samples here and there, all of the latter from one process."""
    torch.set_num_threads(1)
    jobs, noises, made = [], {}, {}
    for case in CASES:
        base = root / "base" / case.kind
        if not base.exists():
            tiny.build(case.kind, base)
        sides = {"height": 64, "width": 64} if case.kind == "flux" else {}
        teacher = from_pipeline(open_pipeline(base, **sides))
        student = student_of(case, teacher)
        folder, heard = (
            student.save_pretrained(root / case.name),
            bool(student.denoiser.net.config.get("time_cond_proj_dim")),
        )
        noise = (
            None
            if case.kind in ("dit", "ddpm")
            else torch.randn(2, *student.shape, generator=torch.Generator().manual_seed(5))
        )
        for form in case.forms:
            for steps in (next(iter(student.samplings)), *case.steps):
                name = f"{case.name}-{form}-{steps}"
                plain = replace(
                    student,
                    denoiser=student.denoiser.off
                    if isinstance(student.denoiser, Adapted)
                    else teacher.denoiser,
                )
                made[name] = {
                    "ours": sampled(student, case, noise, steps),
                    "teacher": None
                    if heard
                    else sampled(
                        plain, case, noise, steps
                    ),  # a grown student is no other walk of its teacher
                    "case": case,
                    "folder": folder if form == "full" else folder / "lora",
                }
                if noise is not None:
                    noises[name] = pack(noise).contiguous().clone() if case.kind == "flux" else noise.clone()
                call = call_of(case, student, steps) | (
                    {"guidance_scale": 1.0} if form != "full" and case.kind in ("sd", "sdxl") else {}
                )
                jobs.append(
                    {
                        "name": name,
                        "folder": str(made[name]["folder"]),
                        "base": str(base),
                        "part": student.pipeline.part,
                        "seed": SEED,
                        "lora": {"full": "", "lora": "diffusers", "peft": "peft"}[form],
                        "trust": case.scheduler == "FewStepScheduler",
                        "call": call,
                        "gives": {"dit": "decoded", "ddpm": "pixels"}.get(case.kind, "latents"),
                    }
                )
    (root / "jobs.json").write_text(json.dumps(jobs))
    save_file(noises, root / "noise.safetensors")
    script = Path(__file__).with_name("in_diffusers.py")
    command = [
        sys.executable,
        str(script),
        *(str(root / f) for f in ("jobs.json", "noise.safetensors", "results.safetensors")),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr[-3000:]
    for name, there in load_file(root / "results.safetensors").items():
        ours = made[name]["ours"]
        if made[name]["case"].kind == "ddpm":
            made[name]["ours"], made[name]["teacher"] = (
                (v / 2 + 0.5).clamp(0, 1) for v in (ours, made[name]["teacher"])
            )
        made[name]["theirs"] = unpack(there, *ours.shape[-2:]) if made[name]["case"].kind == "flux" else there
    return made


NAMES = [(c, form, steps) for c in CASES for form in c.forms for steps in (None, *c.steps)]


def of(results: dict[str, dict[str, Any]], case: Case, form: str, steps: int | None) -> dict[str, Any]:
    found = [
        v
        for k, v in results.items()
        if k.startswith(f"{case.name}-{form}-") and (steps is None or k.endswith(f"-{steps}"))
    ]
    return found[0]


@pytest.mark.parametrize(
    ("case", "form", "steps"), NAMES, ids=[f"{c.name}-{f}-{s or 'default'}" for c, f, s in NAMES]
)
def test_diffusers_samples_the_same(
    case: Case, form: str, steps: int | None, results: dict[str, dict[str, Any]]
) -> None:
    made = of(results, case, form, steps)
    assert (made["ours"] - made["theirs"]).abs().max() < 1e-4
    assert made["theirs"].std() > 0.1
    if made["teacher"] is not None:  # and the weights that were saved are the student's
        assert (made["teacher"] - made["theirs"]).abs().max() > 1e-2


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_the_scheduler_is_the_expected_one(case: Case, results: dict[str, dict[str, Any]]) -> None:
    folder = of(results, case, case.forms[0], None)["folder"]
    assert (
        json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
        == case.scheduler
    )
    assert (folder / "scheduler" / "few_step_scheduler.py").exists() == (case.scheduler == "FewStepScheduler")


@pytest.mark.parametrize(
    ("case", "form"),
    [(c, f) for c in CASES for f in c.forms if f != "peft"],
    ids=lambda v: getattr(v, "name", v),
)
def test_stillhouse_opens_it_again(
    case: Case, form: str, results: dict[str, dict[str, Any]], root: Path
) -> None:
    made = of(results, case, form, None)
    sides = {"height": 64, "width": 64} if case.kind == "flux" else {}
    again = load(made["folder"], **({"base": root / "base" / case.kind} if form == "lora" else sides))
    noise = (
        None
        if case.kind in ("dit", "ddpm")
        else torch.randn(2, *again.shape, generator=torch.Generator().manual_seed(5))
    )
    samples = sampled(again, case, noise, None)
    samples = (samples / 2 + 0.5).clamp(0, 1) if case.kind == "ddpm" else samples
    assert (samples - made["ours"]).abs().max() < 1e-4
    assert again.info["method"] == case.method
