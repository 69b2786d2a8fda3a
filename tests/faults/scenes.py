"""The stages of a run's life that are killed: what a process does, and what is done after its end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from PIL import Image

from stillhouse.api.run import CONFIG, Run
from stillhouse.api.runs import distill, train_model
from stillhouse.checks.runner import load_check
from stillhouse.cli import main
from stillhouse.io.pipelines.tiny import build
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.systems.registry import get_system
from stillhouse.train.run_folder import is_free
from tests.systems.contract_method import small_teacher

# one method of each family that has one, a program and an operation
SLUGS = (
    "flash_diffusion",
    "slimflow",
    "icd",
    "dmd2",
    "sdtt",
    "tad_sr",
    "cfd",
    "denoising",
    "progressive",
    "causvid",
    "msd",
    "oss",
)
QUICK = {"batch": 8, "log_every": 1, "save_every": 2, "keep_checkpoints": 1}


class Scene:
    """Something that a process does below a folder. ``base``: what it is given, made once."""

    steps = 4

    def __init__(self, base: Path):
        self.base = base

    def given(self) -> None:
        """Make ``base``'s files."""

    def before(self, place: Path) -> None:
        """What lies in ``place`` beforehand."""

    def act(self, place: Path) -> None:
        """What is killed."""
        raise NotImplementedError

    def after(self, place: Path) -> None:
        """What the user does then: the same command once more."""
        self.act(place)


class Life(Scene):
    """A whole run: begun anew where nothing was begun, else resumed."""

    def after(self, place: Path) -> None:
        run = place / "run"
        if is_free(run):
            self.act(place)
            return
        assert (run / CONFIG).is_file(), "there is no run.yaml to resume"
        command = Run.from_yaml(run).command
        assert main([command, "--resume", str(run), "--quiet"]) == 0


class SystemLife(Life):
    """Of a system in the small setting of its contract."""

    def __init__(self, base: Path, slug: str):
        super().__init__(base)
        self.slug, self.contract = slug, load_check(slug).CONTRACT

    def given(self) -> None:
        small_teacher(self.contract)[1].save_pretrained(self.base / "teacher")

    def act(self, place: Path) -> None:
        kind = get_system(self.slug).kind
        steps = {"program": {"iterations": 12}, "method": {"iterations": self.steps}}
        recipe = {**QUICK, **steps[kind]} if kind in steps else {}
        how = {"world": dict(self.contract.world), "quiet": True, "out": place / "run"}
        if self.slug == "denoising":
            train_model(self.slug, network=self.contract.network, **how, **self.contract.options, **recipe)
        else:
            distill(self.base / "teacher", self.slug, **how, **self.contract.options, **recipe)


class LoraLife(Life):
    """A LoRA on a Diffusers pipeline, learned from a folder of pictures that is encoded first."""

    steps = 2

    def given(self) -> None:
        build("sd", self.base / "sd")
        (self.base / "pictures").mkdir()
        for number in range(3):
            pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(number))
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(self.base / f"pictures/{number}.png")
            (self.base / f"pictures/{number}.txt").write_text("a red dog")
        for file in (self.base / "pictures").iterdir():  # of files as new as a run no digest is remembered
            os.utime(file, (0, 0))

    def act(self, place: Path) -> None:
        distill(
            self.base / "sd",
            "lcm",
            data=self.base / "pictures",
            validation_prompts=["a cat"],
            quiet=True,
            out=place / "run",
            **{**QUICK, "batch": 2, "save_every": 1},
            lora=2,
            iterations=self.steps,
            validation_every=1,
        )


class Command(Scene):
    """A command on a finished run, a copy of which lies in each place."""

    words: tuple[str, ...] = ()

    def given(self) -> None:
        distill(
            "mixture",
            "progressive",
            out=self.base / "run",
            quiet=True,
            teacher_steps=4,
            iterations=2,
            batch=4,
        )

    def before(self, place: Path) -> None:
        shutil.copytree(self.base / "run", place / "run")

    def act(self, place: Path) -> None:
        words = [word.replace("PLACE", str(place)) for word in self.words]
        assert main(words) == 0


class Evaluate(Command):
    words = ("evaluate", "PLACE/run", "-n", "16", "--teacher-steps", "2")


class Report(Command):
    words = ("report", "PLACE/run")


class Export(Command):
    words = ("export", "PLACE/run", "--out", "PLACE/out/student.pt2")


class Sample(Command):
    words = ("sample", "PLACE/run", "-n", "4", "--out", "PLACE/out/made.npy")


class Again(Command):
    """A product that is saved over an older one."""

    def act(self, place: Path) -> None:
        load(place / "run").save_pretrained(place / "run" / "model")


class Pipeline(Scene):
    """The student of a pipeline, saved over an older one."""

    def given(self) -> None:
        build("sd", self.base / "sd")
        self.student().save_pretrained(self.base / "turbo")

    def student(self) -> Model:
        return load(self.base / "sd")

    def before(self, place: Path) -> None:
        shutil.copytree(self.base / "turbo", place / "turbo")

    def act(self, place: Path) -> None:
        self.student().save_pretrained(place / "turbo")


def scenes(base: Path) -> dict[str, Scene]:
    """Every scene by name; each has a folder below ``base``."""
    made: dict[str, Scene] = {slug: SystemLife(base / slug, slug) for slug in SLUGS}
    made["lora"] = LoraLife(base / "lora")
    for kind in (Evaluate, Report, Export, Sample, Again, Pipeline):
        name = kind.__name__.lower()
        made[name] = kind(base / name)
    return made
