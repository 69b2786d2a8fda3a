"""What a distillation method is: players, whose turn it is, and one loss a player. Mathematics only.

A method file is a dataclass of hyperparameters (each an :func:`option`) and a few short functions.
Optimisers, precision, devices, gradient switches, accumulation, averages, checkpoints, logging and processes
are the loop's business.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from stillhouse.core.conditions import Condition, restored
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import require
from stillhouse.core.process import Process
from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.needs import requires
from stillhouse.train.recipe import Optim
from stillhouse.train.stage import Stage, locate

Decay = float | Callable[[int], float]
T = TypeVar("T")


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


@dataclass
class Batch:
    """One micro-batch as a loss sees it. ``x`` (rows, *shape) is real data (None for a data-free run),
    ``cond`` its conditions."""

    step: int
    rows: int
    shape: tuple[int, ...]
    x: Tensor | None
    cond: Condition
    turns: tuple[str, ...]
    stream: Callable[[str], Draws]
    bank: Callable[[Draws], dict[str, Tensor]] | None = None
    player: str = ""
    memo: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, float] = field(default_factory=dict)
    within: int = 0  # the iteration's number within its stage

    @property
    def data(self) -> Tensor:
        """``x``, for a method that cannot do without."""
        require(
            self.x is not None, "This method learns from real data; give it some (a world or a data folder)."
        )
        assert self.x is not None
        return self.x

    @property
    def draws(self) -> Draws:
        """The random numbers of the player whose turn it is."""
        if self.player not in self.memo:
            self.memo[self.player] = self.stream(self.player)
        return self.memo[self.player]

    def noise(self) -> Tensor:
        """Standard normal noise (rows, *shape)."""
        return self.draws.normal(*self.shape)

    def times(self, low: float, high: float) -> Tensor:
        """Uniform times in [low, high), (rows,)."""
        return self.draws.uniform(low, high)

    def stored(self) -> dict[str, Any]:
        """Rows drawn from the bank that :meth:`Method.bank_rows` filled; their condition, if there is one,
        under ``cond``."""
        assert self.bank is not None, "this method declared no bank"
        return restored(self.bank(self.draws))

    def log(self, name: str, value: Tensor | float) -> None:
        """Show ``value`` in the journal under ``player/name``."""
        self.logs[f"{self.player}/{name}"] = float(value.detach() if torch.is_tensor(value) else value)


def shared(make: Callable[[Any, Batch], T]) -> Callable[[Any, Batch], T]:
    """What the student made in one iteration, a tensor or a dataclass of them: made once, used by every
    player.

    They carry the student's gradient only if it is among the iteration's turns, and only it is handed them
    with a graph.
    """
    key = f"shared/{make.__name__}"

    @functools.wraps(make)
    def once(self: Method, batch: Batch) -> T:
        if key not in batch.memo:
            asking, batch.player = batch.player, "samples"
            with learning(self.players["student"], "student" in batch.turns):
                batch.memo[key] = make(self, batch)
            batch.player = asking
        made = batch.memo[key]
        if batch.player == "student":
            batch.memo[key] = detached(made)  # its graph is spent with the student's turn
            return made
        return detached(made)

    return once


def detached(made: T) -> T:
    """A tensor, or a dataclass of tensors and other things, without its graph."""
    if isinstance(made, Tensor):
        return made.detach()  # type: ignore[return-value]
    assert dataclasses.is_dataclass(made) and not isinstance(made, type)
    values = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    return replace(made, **{k: v.detach() if torch.is_tensor(v) else v for k, v in values.items()})


class learning:
    """Inside the block the parameters of ``module`` learn (or nothing is traced); afterwards they are as
    before."""

    def __init__(self, module: nn.Module, on: bool):
        self.parameters, self.on = list(module.parameters()), on

    def __enter__(self) -> None:
        self.were = [p.requires_grad for p in self.parameters]
        for p in self.parameters:
            p.requires_grad_(self.on)
        self.mode = torch.set_grad_enabled(self.on)
        self.mode.__enter__()

    def __exit__(self, *_: object) -> None:
        self.mode.__exit__(*_)
        for p, was in zip(self.parameters, self.were, strict=True):
            p.requires_grad_(was)


@dataclass
class EMA:
    """A slow copy that follows its source: ``copy <- decay copy + (1 - decay) source`` after each of its
    steps."""

    module: nn.Module
    source: nn.Module
    decay: Decay

    def follow(self, step: int) -> None:
        decay = self.decay(step) if callable(self.decay) else self.decay
        with torch.no_grad():
            torch._foreach_lerp_(*self._floating, 1 - decay)
            for mine, its in self._others:
                mine.copy_(its)

    @functools.cached_property
    def _floating(self) -> tuple[list[Tensor], list[Tensor]]:
        # not the state's entries: weights that two layers share stand twice there, and would be averaged
        # twice
        mine, its = (
            [v for v in (*m.parameters(), *m.buffers()) if v.is_floating_point()]
            for m in (self.module, self.source)
        )
        return mine, its

    @functools.cached_property
    def _others(self) -> list[tuple[Tensor, Tensor]]:
        """Counters and the like: tensors that are not averaged but copied."""
        pairs = zip(self.module.state_dict().values(), self.source.state_dict().values(), strict=True)
        return [(mine, its) for mine, its in pairs if not mine.is_floating_point()]


@dataclass
class Method:
    """A way to make a student from a teacher. Subclasses are dataclasses of :func:`option` fields.

    After :meth:`setup`: ``teacher`` (frozen; its weights never learn, gradients may pass through it),
    ``student``, ``process``, ``shape`` and ``conditional`` (whether the data comes with conditions).
    ``players`` are the modules that learn.
    """

    worlds: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str] = "method"
    needs: ClassVar[tuple[str, ...]] = ("teacher",)  # as stillhouse.train.needs reads them
    same_size: ClassVar[bool] = False  # whether student and teacher must be of one architecture
    optim: ClassVar[dict[str, Optim]] = {}  # default optimiser settings of each player

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            check_option(type(self).__name__, f, getattr(self, f.name))

    def requires(self, need: str) -> bool:
        """Whether a run with these options needs ``need``: a name such as ``teacher`` or ``data``."""
        return requires(self.needs, need, self)

    # -- what a method answers ---------------------------------------------------------------------
    def make_student(self, teacher: Denoiser) -> Denoiser:
        """The student to start from: a copy of the teacher unless the method says otherwise."""
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

    def product(self, teacher: Model) -> Model:
        """What comes out of the run: by default the student with its samplings and companions.

        Arguments:
            teacher: the model that the run began with (for a system without one, the fresh network in its
                place): its shape, classes, text encoder, codec and pipeline are the product's.

        Returns:
            A model of the modules that :meth:`final` gives: averaged ones where the run averages.
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

    def bank_rows(self, draws: Draws, cond: Condition) -> dict[str, Tensor]:
        """Rows of the bank that a method with ``bank_size > 0`` draws from: ``draws.rows`` of them, made
        before the first step.

        A condition is stored through :func:`stillhouse.core.conditions.flattened`.
        """
        raise NotImplementedError

    # -- what a method may use ---------------------------------------------------------------------
    def setup(
        self,
        teacher: Denoiser,
        student: Denoiser,
        shape: tuple[int, ...],
        conditional: bool = False,
        total: int = 1,
    ) -> None:
        """Called once by the loop, before :meth:`build`."""
        self.teacher, self.student, self.shape, self.conditional, self.total = (
            teacher.eval().requires_grad_(False),
            student,
            shape,
            bool(conditional),
            total,
        )
        self.players: dict[str, nn.ModuleList] = {}
        self.emas: dict[str, EMA] = {}
        self.frozen: dict[str, nn.Module] = {}
        self.companions: dict[str, nn.Module] = {}  # modules of players that are kept with the student
        self.averaged: dict[int, nn.Module] = {}  # the run's averages, by the identity of what they average
        self.plan, self.stage = self.stages(total), 0
        self.player("student", student)
        self.build()

    @property
    def process(self) -> Process:
        return self.student.process

    @property
    def current(self) -> Stage:
        """The stage that the run is in."""
        return self.plan[self.stage]

    def player(self, name: str, *modules: nn.Module) -> Any:
        """Register modules that learn together as ``name`` (again: add to it); returns the first of them."""
        self.players.setdefault(name, nn.ModuleList()).extend(modules)
        return modules[0]

    def ema_copy(self, source: nn.Module, decay: Decay, name: str = "target") -> Any:
        """A frozen copy of a player's module that follows it after each of its steps; ``decay`` may depend on
        the step."""
        twin = self.copy_of(source)
        self.emas[name] = EMA(twin, source, decay)
        return twin

    def frozen_copy(self, source: nn.Module, name: str) -> Any:
        """A copy that only the method itself changes (:func:`copy_weights`), kept in checkpoints."""
        self.frozen[name] = self.copy_of(source)
        return self.frozen[name]

    @staticmethod
    def copy_of(source: nn.Module) -> nn.Module:
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

    def loss(self, player: str, batch: Batch) -> Tensor:
        """The player's loss in the current stage."""
        batch.player = player
        loss = self.current.losses.get(player)
        return loss(batch) if loss is not None else getattr(self, f"{player}_loss")(batch)


def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Make ``target`` what ``source`` is now."""
    target.load_state_dict(source.state_dict())


def check_option(method: str, f: dataclasses.Field, value: Any) -> None:
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
