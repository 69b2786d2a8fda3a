"""Running a :class:`~stillhouse.api.run.Run`: a method by the loop, an operation at once, a program part by
part."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from stillhouse import forms
from stillhouse.api.announce import announce, described
from stillhouse.api.defaults import Defaults, beginning, continued
from stillhouse.api.models import default_teacher, has_product, open_model, open_product, teacher_of
from stillhouse.api.negative import negative_prompt_of, with_negative_prompt, without_negative_prompt
from stillhouse.api.options import build_recipe, fields_of, recipe_entries
from stillhouse.api.resolve import (
    callable_on,
    data_of,
    free_folder,
    look_at_times,
    shown_with,
    student_of,
    untrained,
    world_of,
)
from stillhouse.api.run import CACHE, CONFIG, OPENING, Run, recorded_entries, require_same
from stillhouse.api.system import name_of, own_defaults, requires, right_command, system_class, system_of
from stillhouse.api.trust import changed
from stillhouse.api.validation import Validation, prompts_of
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError, require, required_type
from stillhouse.core.processes import process_rank
from stillhouse.io.own import is_own, names_code, run_code
from stillhouse.model import Model, Network
from stillhouse.opening import model_of
from stillhouse.parts.states.segments import parted
from stillhouse.systems.base import Operation, Program, Work
from stillhouse.train.data import Data
from stillhouse.train.dry_run import dry_run
from stillhouse.train.engine import Engine
from stillhouse.train.guards import suiting
from stillhouse.train.loop import Interrupted, Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.train.run_folder import held
from stillhouse.worlds.base import WORLDS, World, get_world

log = logging.getLogger("stillhouse")


@dataclass
class Memory:
    """Objects that take the place of a run's names: those that a Python caller has in memory, and what the
    code made that a caller named. ``network``: a model to train from scratch; or what :func:`stillhouse.load`
    takes for a teacher that is a folder of weights."""

    system: Any = None
    teacher: Any = None
    world: Any = None
    data: Any = None
    student: Any = None
    network: Any = None


def run_named(run: Run, memory: Memory) -> None:
    """Run the code that ``run`` names, and keep what it makes; for a caller who was given these names just
    now, and not by a file.

    Arguments:
        run: what to do, by names.
        memory: gets the objects that the code makes.
    """
    if names_code(run.teacher):
        memory.teacher = model_of(run.teacher)
    if names_code(run.data):
        made = run_code(str(run.data))
        memory.data = (made, None) if isinstance(made, Tensor) else made
    if isinstance(run.network, str):
        memory.network = model_of(run.network) if run.command == "train" else run.network


def execute(run: Run, memory: Memory | None = None, *, resume: bool = False, quiet: bool = False) -> Model:
    """Start ``run``, or go on with it.

    Arguments:
        run: what to do, by names.
        memory: objects in the place of some of these names.
        resume: go on in the run's folder.
        quiet: no progress bar.

    Returns:
        The product; with ``run.out`` it is in ``out/model`` as well, and the run in ``out/run.yaml``.

    Raises:
        StillhouseError: for a mistake in what was given, a folder in which another run is at work, and a run
            that fails.
    """
    free_folder(run.out, resume)
    first = process_rank() == 0  # of several processes of one run one holds its folder
    try:
        with held(Path(run.out) if run.out and first else None):
            return _execute(run, memory or Memory(), resume, quiet)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        raise StillhouseError(
            "There is not enough memory for this run; take a smaller batch or network (--batch, --student), "
            f"or more micro-batches (--grad-accum): {next(iter(str(error).splitlines()), 'none is left')}."
        ) from error


def _execute(run: Run, memory: Memory, resume: bool, quiet: bool) -> Model:
    named = memory.system if memory.system is not None else run.system or "denoising"
    folder, sort = Path(run.out) if run.out else None, system_class(named)
    begun = resume and folder is not None and (folder / CONFIG).is_file()
    defaults = Defaults(_options_of(named, run.options), run.recipe)
    recorded = recorded_entries(folder / CONFIG) if begun and folder else {}
    if begun:
        defaults = continued(sort, recorded, defaults.options, run.recipe)
        run = replace(run, **{k: v for k in OPENING if (v := recorded.get(k)) and getattr(run, k) is None})
        for name in changed(recorded, run.entries()):
            log.warning("%s has changed since this run began; it goes on with the new code.", name)
    system, recipe = system_of(named, defaults.options), build_recipe(defaults.run)
    right_command(run.command, sort, run.system)
    place = world_of(memory.world if memory.world is not None else run.world)
    given = memory.data if memory.data is not None else run.data
    if run.command == "train":
        base, run = _to_train(run, memory, place, given, recipe.seed)
    else:
        wanted = memory.teacher if memory.teacher is not None else run.teacher or default_teacher(place)
        base = teacher_of(wanted, place, run.adapter, memory.network, run.opening)
        run = replace(run, teacher=str(wanted) if isinstance(wanted, str | Path) else run.teacher)
        if not begun:
            slug = Path(name_of(named) or sort.__name__).name
            defaults = beginning(sort, slug, base, defaults.options, run.recipe)
            defaults.options = own_defaults(named, base.denoiser.process, defaults.options)
            system, recipe = system_of(named, defaults.options), build_recipe(defaults.run)
        run = replace(run, negative_prompt=negative_prompt_of(system, base, run.negative_prompt))
        base = with_negative_prompt(base, system, run.negative_prompt)
        if place is None and base.world in WORLDS:
            place = get_world(base.world)
    shown, prompts = _validation(run, system, base, recipe, folder)
    student: Any = memory.student if memory.student is not None else run.student or None
    if isinstance(system, Operation) and run.out:
        base.require_savable()  # its product has the teacher in it
    _refused_early(system, base, recipe, student, given)
    data = data_of(given, place, base, system, recipe.seed, folder / CACHE if folder else None)
    if place is None:
        base = shown_with(base, data)
        look_at_times(base, data)
    run = replace(
        run,
        system=name_of(named),
        world=getattr(place, "config", None),
        options=system.describe()["options"],
        recipe=recipe_entries(recipe),
        settings=defaults.line or None,
        validation_prompts=prompts,
    )
    if begun and folder:
        require_same(recorded, run.entries(), folder)
    job = Job(run, base, data, recipe, folder, resume, quiet, shown)
    if isinstance(system, Operation):
        model = job.operation(system, student)
    elif isinstance(system, Program):
        model = job.program(system, student, place)
    else:
        model = job.method(system, student_of(student, place, base, system, recipe.seed))
    if folder and isinstance(model, Model) and model.pipeline is not None and (folder / "model").is_dir():
        _show_in(folder)
    return model


def _to_train(run: Run, memory: Memory, place: World | None, given: Any, seed: int) -> tuple[Model, Run]:
    """The untrained model of a run without a teacher, and the run with its process and kind."""
    if memory.network is not None:
        return memory.network, run
    scratch = required_type(
        run.network,
        Mapping,
        f"The code '{run.network}' runs only where you name it: --network {run.network}.",
    )
    process = run.process or (place.default_process if place else "flow")
    kind = run.kind or (place.default_kind if place else "velocity")
    made = untrained(place, given, scratch, process, kind, seed)
    return made, replace(run, process=process, kind=kind)


def _validation(
    run: Run, system: Any, base: Model, recipe: Recipe, folder: Path | None
) -> tuple[Validation | None, Any]:
    """What shows a run's prompts on the way, None without any; and the prompts."""
    prompts = prompts_of(run.validation_prompts)
    require(
        not prompts or not isinstance(system, Operation),
        f"{type(system).__name__} has no iterations to validate; sample its product instead.",
    )
    shown = Validation(base, prompts, folder, recipe.validation_every, recipe.seed) if prompts else None
    return shown, prompts


def _refused_early(system: Any, base: Model, recipe: Recipe, student: Any, data: Any) -> None:
    """Refuse a model that a system can't work with before any data is read, encoded or made.

    Arguments:
        system: with its options.
        base: the teacher, or the untrained model.
        recipe: of the run.
        student: what was given for one; None for the system's own choice.
        data: what was given; its conditions count where it is in memory.
    """
    if not isinstance(system, Method):
        suiting(system, base)
        system.suits(base)
    elif student is not None:
        suiting(system, base)
        system.stages(recipe.steps)
    else:
        dry_run(system, base, recipe, base.conditional or _has_conditions(base, data))


def _has_conditions(base: Model, data: Any) -> bool:
    """Whether data brings conditions to a model that names none itself: known of data in memory, possible of
    a folder for a network of the user's own."""
    if isinstance(data, tuple):
        return data[1] is not None
    if data is None or isinstance(data, str | Path):
        return is_own(base.denoiser.net)
    return data.examples(1) is not None


def _options_of(named: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a system that are given; of an object all are."""
    own = {} if isinstance(named, str | type) else {n: getattr(named, n) for n in fields_of(type(named))}
    return {**own, **options}


@dataclass
class Job:
    """A run whose names have become objects. ``base``: the teacher, or the untrained model of a run without
    one."""

    run: Run
    base: Model
    data: Data
    recipe: Recipe
    folder: Path | None
    resume: bool
    quiet: bool
    validation: Validation | None = None

    def method(self, method: Method, student: Denoiser | None) -> Model:
        """Train a method.

        Arguments:
            method: with its options set.
            student: the denoiser to train; None for the method's own choice.

        Returns:
            The product of the run.
        """
        trainer = self._trainer(method, self.base, self.data, self.recipe, student, self.folder)
        self._record(trainer.engine)
        announce(described(self.run, self.base, self.folder, trainer), trainer.engine, self.quiet)
        return trainer.fit(resume=self.folder is not None)

    def operation(self, operation: Operation, student: Any) -> Model:
        """Apply an operation; nothing is written before its product is there. A finished one that is resumed
        is opened.

        Arguments:
            operation: with its options set.
            student: a model or its folder, for an operation that needs one; None otherwise.

        Returns:
            The product.
        """
        if self.folder and self.resume and has_product(self.folder):
            return cast(Model, open_product(self.folder, self.run.adapter, self.base))
        models = self._models(operation, student)
        engine = Engine(self.recipe.precision)
        announce(described(self.run, self.base, self.folder), engine, self.quiet)
        device = engine.device
        for model in models.values():
            model.denoiser.to(device)
        made = operation.apply(models, Work(self.data, self.recipe.seed, self.quiet, device))
        return self._keep(operation, without_negative_prompt(made) if self.run.negative_prompt else made)

    def program(self, program: Program, student: Any, place: Any) -> Model:
        """Run the parts of a program, each a run of its own in ``parts/NAME``, and join their models.

        Arguments:
            program: with its options set.
            student: a model or its folder, for a program that needs one; None otherwise.
            place: the world, whose networks the parts' students are; None for none.

        Returns:
            The joined product.

        Raises:
            Interrupted: after a part that was stopped; resuming goes on from there.
        """
        if self.folder and self.resume and has_product(self.folder):
            return cast(Model, open_product(self.folder, self.run.adapter, self.base))
        models = self._models(program, student)
        parts = program.parts(models, self.data)
        names = [part.name for part in parts]
        require(bool(parts), f"{type(program).__name__} has no parts to run.")
        require(len(set(names)) == len(names), f"Two parts of {type(program).__name__} have one name.")
        lengths = parted(self.recipe.steps, [part.share for part in parts])
        require(
            min(lengths) > 0,
            f"{self.recipe.steps} iteration(s) can't be shared by {len(parts)} parts; give more iterations.",
        )
        made: dict[str, Model] = {}
        for part, steps in zip(parts, lengths, strict=True):
            require(
                not part.student or part.student in made,
                f"The part '{part.name}' starts from '{part.student}', which no part before it makes.",
            )
            recipe = replace(self.recipe, steps=steps, lr={**self.recipe.lr, **part.lr})
            first: Denoiser | None
            if part.student:
                first = made[part.student].denoiser.copy()
            else:
                first = student_of(part.network or None, place, self.base, part.method, recipe.seed)
            data = self.data if part.data is None else part.data
            folder = self.folder / "parts" / part.name if self.folder else None
            # a finished part makes no step: its last checkpoint is opened
            trainer = self._trainer(part.method, self.base, data, recipe, first, folder)
            if not made:
                self._record(trainer.engine)
            lines = {"part": part.name, **described(self.run, self.base, folder, trainer)}
            announce(lines, trainer.engine, self.quiet)
            made[part.name] = trainer.fit(resume=folder is not None)
            if trainer.stopping and len(made) < len(parts):
                raise Interrupted(f"Stopped after the part '{part.name}', all saved.")
        return self._keep(program, program.join(models, made))

    def _models(self, system: Operation | Program, student: Any) -> dict[str, Model]:
        """The models that ``system`` needs, by the names of the needs."""
        models = {"teacher": self.base} if requires(system, "teacher") else {}
        if isinstance(student, str | Path):
            student = open_model(student, self.run.adapter, self.base)
        if requires(system, "student"):
            require(
                isinstance(student, Model),
                f"{type(system).__name__} needs a student beside the teacher; name a model or a run: "
                "--student-model runs/cm.",
            )
            models["student"] = student
        return models

    def _trainer(
        self,
        method: Method,
        base: Model,
        data: Data,
        recipe: Recipe,
        student: Denoiser | None,
        folder: Path | None,
    ) -> Trainer:
        who = "model" if self.run.command == "train" else "teacher"
        for name, denoiser in ((who, base.denoiser), ("student", student)):
            if denoiser is not None:
                hidden = float(getattr(method, "label_dropout", 0)) > 0
                callable_on(name, denoiser, base, data, hidden=hidden)

        def grid(step: int, samples: Tensor) -> None:
            if folder:
                forms.of(base).save_grid(folder / "grids" / f"step-{step:08d}", base, samples)

        return Trainer(
            method,
            base,
            data,
            recipe,
            student=student,
            out=folder,
            quiet=self.quiet,
            on_grid=grid,
            on_step=self.validation,
            info=self._info(),
        )

    def _info(self) -> dict[str, Any]:
        """What the product's header keeps of the run."""
        entries = self.run.entries()
        info = {
            k: entries[k] for k in ("teacher", "negative_prompt", "student", "network", "run") if k in entries
        }
        # a student's numbers are scaled as its teacher's are
        return info | {k: self.base.info[k] for k in ("scales",) if k in self.base.info}

    def _record(self, engine: Engine) -> None:
        """Write ``run.yaml``, once."""
        engine.wait()  # every process has looked at the folder before the first file appears in it
        if self.folder and engine.main and not (self.resume and (self.folder / CONFIG).exists()):
            self.run.to_yaml(self.folder / CONFIG)
        engine.wait()

    def _keep(self, system: Operation | Program, product: Model | Network) -> Model:
        """``product`` with what made it in its header, saved in the run's folder."""
        facts: Mapping[str, Any] = system.describe() | self._info()
        product = replace(product, info={**product.info, **facts})
        engine = Engine(self.recipe.precision)
        self._record(engine)
        if self.folder and engine.main:
            product.save_pretrained(self.folder / "model")
        engine.wait()
        return cast(Model, product)  # nearly always; every caller would have to check otherwise


def _show_in(folder: Path) -> None:
    """Let the run's folder open in Diffusers as its ``model`` does: by a link to each part, where the file
    system has links."""
    for part in (folder / "model").iterdir():
        with contextlib.suppress(OSError):
            (folder / part.name).symlink_to(Path("model") / part.name)
