"""What a distillation method is: players, whose turn it is, and one loss a player. Mathematics only.

A method file is a dataclass of hyperparameters (each an :func:`option`) and a few short functions.
Optimisers, precision, devices, gradient switches, accumulation, averages, checkpoints, logging and processes
are the loop's business.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.precision import learnable
from stillhouse.core.process import Process
from stillhouse.model import Codec, Model, Network
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.ema import EMA, Decay
from stillhouse.train.needs import requires
from stillhouse.train.option import check_options
from stillhouse.train.published import Published
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage, locate
from stillhouse.train.start import first_time_of, predicts_noise, require_clean_start

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


class Kept(nn.Module):
    """A tensor that a method changes by itself: ``kept.value``. Its shape may change during a run."""

    value: Tensor

    def __init__(self, value: Tensor):
        super().__init__()
        self.register_buffer("value", value.detach().clone())

    def _load_from_state_dict(self, tensors: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        saved = tensors.get(f"{prefix}value")
        if saved is not None and saved.shape != self.value.shape:
            self.value = self.value.new_empty(saved.shape)
        super()._load_from_state_dict(tensors, prefix, *rest)


@dataclass
class Method:
    """A way to make a student from a teacher. Subclasses are dataclasses of :func:`option` fields.

    After :meth:`setup`: ``teacher`` (frozen; its weights never learn, gradients may pass through it),
    ``student``, ``process``, ``shape`` and ``conditional`` (whether the data comes with conditions).
    ``players`` are the modules that learn. Where :meth:`make_student` gives none, ``student`` is the teacher,
    which nothing changes.
    """

    worlds: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str] = "method"
    needs: ClassVar[tuple[str, ...]] = ("teacher",)  # as stillhouse.train.needs reads them
    # which teachers it is for: of a gaussian process, of tokens or of a bridge; forms of sample, none for any
    processes: ClassVar[tuple[str, ...]] = ("gaussian",)
    forms: ClassVar[tuple[str, ...]] = ()
    same_size: ClassVar[bool] = False  # whether student and teacher must be of one architecture
    negative_prompt: ClassVar[str] = ""  # of the teacher, where it is a text-to-video pipeline; empty: none
    optim: ClassVar[dict[str, Optim]] = {}  # default optimiser settings of each player, in our worlds
    published: ClassVar[Published] = {}  # settings for models of Diffusers and Transformers, with sources
    # what it reads of the data besides its rows, and the views of
    reads_parts: ClassVar[tuple[str, ...]] = ()
    reads_views: ClassVar[tuple[str, ...]] = ()  # them: names of a stillhouse.train.data.Several

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def defaults_on(cls, process: Process) -> dict[str, Any]:
        """Options whose defaults are others on the process of the run's teacher, where none are given.

        Arguments:
            process: the teacher's.

        Returns:
            Values by option; none for a process of no special kind.
        """
        return {}

    def requires(self, need: str) -> bool:
        """Whether a run with these options needs ``need``: a name such as ``teacher`` or ``data``."""
        return requires(self.needs, need, self)

    # -- what a method answers ---------------------------------------------------------------------
    def make_student(self, teacher: Denoiser) -> Denoiser | None:
        """The student to start from: a copy of the teacher unless a method overrides this. None: there is
        no denoiser to train; the players are those of :meth:`build`."""
        return teacher.copy()

    def build(self) -> None:
        """Create the players beside the student, slow copies and frozen copies."""

    def turns(self, step: int) -> Sequence[str]:
        """Which players move in iteration ``step`` of the run, in order: the turns of its stage, else all."""
        number, within = locate(self.plan, step)
        turns = self.plan[number].turns
        return list(self.players) if turns is None else turns(within)

    def stages(self, total: int) -> list[Stage]:
        """The parts of a run of ``total`` iterations; optimisers start anew in each."""
        return [Stage("training", total)]

    def enter(self, stage: int) -> None:
        """Make ``stage`` the current one, and do what it does when it begins."""
        self.stage = stage
        begin = self.current.enter
        if begin is not None:
            begin()

    free_steps: ClassVar[bool] = False  # the product is a many-step model that any solver may walk

    def samplings(self) -> dict[int, Sampling]:
        """How the student is sampled, by number of steps; the first is its default."""
        raise NotImplementedError

    def product(self, teacher: Model) -> Model | Network:
        """What comes out of the run: by default the student with its samplings and companions.

        Arguments:
            teacher: the model that the run began with (for a system without one, the fresh network in its
                place): its shape, classes, text encoder, codec and pipeline are the product's.

        Returns:
            A model of the modules that :meth:`final` gives: averaged ones where the run averages; or a plain
            network, for a method that makes no denoiser.
        """
        student = self.final(self.student)
        assert isinstance(student, Denoiser)
        return replace(
            teacher,
            denoiser=student,
            companions={name: self.final(module) for name, module in self.companions.items()},
            samplings=self.samplings() if self.current.samplings is None else self.current.samplings(),
            free_steps=self.free_steps,
            info=self.describe(),
        )

    def final(self, module: nn.Module) -> nn.Module:
        """What is kept of a module that learned: its average, where the run has one."""
        return self.averaged.get(id(module), module)

    @property
    def bank_size(self) -> int:
        """How many rows the bank holds; 0: the method needs none."""
        return 0

    @property
    def bank_refresh(self) -> int:
        """Iterations after which the bank is made anew; 0: it is made once."""
        return 0

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        """Rows of the bank, for a method with ``bank_size > 0``: made before the first step, and of the
        players as they are then once more every :attr:`bank_refresh`.

        Arguments:
            draws: the source of randomness, for ``draws.rows`` rows.
            cond: the condition of the rows, from the data; None for none.

        Returns:
            Tensors (rows, …) by name; a condition is stored through
            :func:`stillhouse.core.conditions.flattened`.
        """
        raise NotImplementedError

    # -- what a method may use ---------------------------------------------------------------------
    def setup(
        self,
        teacher: Denoiser,
        student: Denoiser | None,
        shape: tuple[int, ...],
        conditional: bool = False,
        total: int = 1,
        codec: Codec | None = None,
    ) -> None:
        """Called once by the loop; creates the players, by :meth:`build` at the end.

        Arguments:
            teacher: frozen here.
            student: as :meth:`make_student` gives it; None: ``student`` is the teacher.
            shape: of one sample.
            conditional: whether the data comes with conditions.
            total: iterations of the run.
            codec: between data and the teacher's latents; None where its samples are data themselves.
        """
        self.codec = codec
        self.teacher, self.shape = teacher.eval().requires_grad_(False), shape
        self.conditional, self.total = bool(conditional), total
        self.players: dict[str, nn.ModuleList] = {}
        self.emas: dict[str, EMA] = {}
        self.frozen: dict[str, nn.Module] = {}
        self.kept_state: dict[str, nn.Module] = {}
        self.companions: dict[str, nn.Module] = {}  # modules of players that are kept with the student
        self.averaged: dict[int, nn.Module] = {}  # the run's averages, by the identity of what they average
        self.plan, self.stage = self.stages(total), 0
        self.student = self.teacher if student is None else self.player("student", student.train())
        asked: float | None = getattr(self, "first_time", None)
        if asked is not None:
            first = first_time_of(self.student, asked, f"{type(self).__name__} first_time")
            self.first_time: float = first
        self.build()
        if student is not None:
            self._check_start()
        self.student.negative_condition = None  # the teacher's alone

    def _check_start(self) -> None:
        """Refuse a few-step student that would start where it can make no picture."""
        if not self.free_steps and predicts_noise(self.student.kind):
            for sampling in self.samplings().values():
                if not sampling.legs[0].network:
                    require_clean_start(self.student, sampling.times[0])

    @property
    def process(self) -> Process:
        return self.student.process

    @property
    def current(self) -> Stage:
        """The stage that the run is in."""
        return self.plan[self.stage]

    def player(self, name: str, module: M, *more: nn.Module) -> M:
        """Register modules that learn together, which are made float32 where they are in half precision.

        Arguments:
            name: of the player; a name that stands already is added to.
            modules: what learns under its optimiser.

        Returns:
            The first of the modules.
        """
        modules: tuple[nn.Module, ...] = (module, *more)
        for one in modules:
            learnable(one)
        self.players.setdefault(name, nn.ModuleList()).extend((module, *more))
        return module

    def ema_copy(self, source: M, decay: Decay, name: str = "target") -> M:
        """A frozen copy of a player's module that follows it after each of its steps.

        Arguments:
            source: the module.
            decay: in [0, 1], or a function of the run's iteration.
            name: under which checkpoints keep it.

        Returns:
            The copy.
        """
        twin = self.copy_of(source)
        self.emas[name] = EMA(twin, source, decay)
        return twin

    def frozen_copy(self, source: M, name: str) -> M:
        """A copy that only the method itself changes (:func:`copy_weights`), kept in checkpoints.

        Arguments:
            source: a module.
            name: under which checkpoints keep it.

        Returns:
            The copy.
        """
        self.frozen[name] = twin = self.copy_of(source)
        return twin

    def state(self, name: str, value: Tensor | nn.Module) -> Any:
        """Declare state of the method's own, which a resumed run finds as it was: a dual variable, a field.

        Arguments:
            name: under which checkpoints keep it.
            value: where it starts; a module keeps its parameters and buffers.

        Returns:
            The module, or for a tensor a :class:`Kept`: read and set its ``value``, which is on the run's
            device. No player moves it; in a run of several processes each must set the same.
        """
        self.kept_state[name] = value if isinstance(value, nn.Module) else Kept(value)
        return self.kept_state[name]

    @staticmethod
    def copy_of(source: M) -> M:
        """An independent frozen copy, in float32 where the source is in half precision: it follows what
        learns."""
        return learnable(copy.deepcopy(source)).eval().requires_grad_(False)

    def describe(self) -> dict[str, Any]:
        """Name and options as plain data, for headers and reports."""
        return {"method": type(self).__module__.rpartition(".")[2], "options": dataclasses.asdict(self)}

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Everything that a checkpoint must hold."""
        yield from self.players.items()
        yield from ((f"ema.{name}", s.module) for name, s in self.emas.items())
        yield from ((f"frozen.{name}", m) for name, m in self.frozen.items())
        yield from ((f"state.{name}", m) for name, m in self.kept_state.items())

    def loss(self, player: str, batch: Batch) -> Tensor:
        """The player's loss in the current stage.

        Arguments:
            player: whose turn it is; its ``<player>_loss`` is called where the stage has no loss of its own
                for it.
            batch: a micro-batch; its ``player`` is set.

        Returns:
            A scalar.
        """
        batch.player = player
        loss = self.current.losses.get(player)
        return loss(batch) if loss is not None else getattr(self, f"{player}_loss")(batch)


def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Make ``target`` what ``source`` is now.

    Arguments:
        target: changed in place, parameters and buffers.
        source: a module with the same names and shapes.
    """
    target.load_state_dict(source.state_dict())


def option_defaults(method: Method) -> dict[str, Any]:
    """Defaults of a method's options by name, of those that have one."""
    return {f.name: f.default for f in dataclasses.fields(method) if f.default is not dataclasses.MISSING}
