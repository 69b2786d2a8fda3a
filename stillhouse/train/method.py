"""What a distillation method is: players, whose turn it is, and one loss a player. Mathematics only.

A method file is a dataclass of hyperparameters (each an :func:`option`) and a few short functions.
Optimisers, precision, devices, gradient switches, accumulation, averages, checkpoints, logging and processes
are the loop's business.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from stillhouse.core.conditions import Condition
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.process import Process
from stillhouse.model import Model, Network
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.ema import EMA, Decay
from stillhouse.train.needs import requires
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage, locate

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A hyperparameter: its default, a line of help, its unit and its range (both ends included)."""
    meta = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


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
    same_size: ClassVar[bool] = False  # whether student and teacher must be of one architecture
    optim: ClassVar[dict[str, Optim]] = {}  # default optimiser settings of each player
    # what it reads of the data besides its rows, and the views of
    reads_parts: ClassVar[tuple[str, ...]] = ()
    reads_views: ClassVar[tuple[str, ...]] = ()  # them: names of a stillhouse.train.data.Several

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            check_option(type(self).__name__, f, getattr(self, f.name))

    def requires(self, need: str) -> bool:
        """Whether a run with these options needs ``need``: a name such as ``teacher`` or ``data``."""
        return requires(self.needs, need, self)

    # -- what a method answers ---------------------------------------------------------------------
    def make_student(self, teacher: Denoiser) -> Denoiser | None:
        """The student to start from: a copy of the teacher unless the method says otherwise. None: there is
        no denoiser to train; the players are those of :meth:`build`."""
        return teacher.copy()

    def build(self) -> None:
        """Create the players beside the student, slow copies and frozen copies."""

    def turns(self, step: int) -> Sequence[str]:
        """Which players move in iteration ``step`` of the run, in order: what its stage says, else all."""
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
        """Rows of the bank that a method with ``bank_size > 0`` draws from: ``draws.rows`` of them, made
        before the first step, and of the players as they are then once more every :attr:`bank_refresh`.

        A condition is stored through :func:`stillhouse.core.conditions.flattened`.
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
    ) -> None:
        """Called once by the loop, before :meth:`build`."""
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
        self.build()

    @property
    def process(self) -> Process:
        return self.student.process

    @property
    def current(self) -> Stage:
        """The stage that the run is in."""
        return self.plan[self.stage]

    def player(self, name: str, module: M, *more: nn.Module) -> M:
        """Register modules that learn together as ``name`` (again: add to it); returns the first of them."""
        self.players.setdefault(name, nn.ModuleList()).extend((module, *more))
        return module

    def ema_copy(self, source: M, decay: Decay, name: str = "target") -> M:
        """A frozen copy of a player's module that follows it after each of its steps; ``decay`` may depend on
        the step."""
        twin = self.copy_of(source)
        self.emas[name] = EMA(twin, source, decay)
        return twin

    def frozen_copy(self, source: M, name: str) -> M:
        """A copy that only the method itself changes (:func:`copy_weights`), kept in checkpoints."""
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
        """An independent frozen copy."""
        return copy.deepcopy(source).eval().requires_grad_(False)

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
        """The player's loss in the current stage."""
        batch.player = player
        loss = self.current.losses.get(player)
        return loss(batch) if loss is not None else getattr(self, f"{player}_loss")(batch)


def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Make ``target`` what ``source`` is now."""
    target.load_state_dict(source.state_dict())


def check_option(method: str, f: dataclasses.Field[Any], value: Any) -> None:
    """Refuse a hyperparameter outside its declared range, in one sentence."""
    meta, name = f.metadata, f"{method} option '{f.name}'"
    if not meta:
        return
    if meta["choices"]:
        require(value in meta["choices"], f"{name} is one of {', '.join(meta['choices'])}, not {value!r}.")
    if isinstance(f.default, bool) or not isinstance(f.default, int | float):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    require(number, f"{name} is a finite number, not {value!r}.")
    require(
        isinstance(value, int) or not isinstance(f.default, int), f"{name} is a whole number, not {value!r}."
    )
    low, high = meta["low"], meta["high"]
    require(low is None or value >= low, f"{name} is at least {low}, not {value}.")
    require(high is None or value <= high, f"{name} is at most {high}, not {value}.")
