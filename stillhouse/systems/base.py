"""What a system is besides a :class:`~stillhouse.train.method.Method`: operations, which have no training
loop, and programs, which are several runs.

Every system is one class that names its ``kind``, ``worlds`` and ``needs`` as literals, so that
:mod:`stillhouse.systems.registry` can read them without importing it. Estimators keep scikit-learn's contract
instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from tqdm import tqdm

from stillhouse.core.draws import Draws
from stillhouse.model import Model, Network
from stillhouse.train.data import Data
from stillhouse.train.method import Method
from stillhouse.train.needs import requires
from stillhouse.train.option import check_options
from stillhouse.train.published import Published

T = TypeVar("T")


@dataclass
class Work:
    """What an operation works with besides its models: rows of data, random numbers, a progress bar.

    ``data``: conditions, and samples where the operation needs them. ``seed``: of all its draws.
    """

    data: Data
    seed: int = 0
    quiet: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def draws(self, rows: int, *name: object) -> Draws:
        """A named stream of random numbers.

        Arguments:
            rows: for how many samples.
            *name: of the stream; equal names give equal numbers.

        Returns:
            The stream, on :attr:`device`.
        """
        return Draws(rows, self.seed, *name, device=self.device)

    def rows(self, count: int, *name: object) -> tuple[Any, Any]:
        """Rows of the data.

        A finite set in memory gives its first rows in the order of its first epoch, whatever the name: to
        compare on other rows, request more and split them.

        Arguments:
            count: how many.
            *name: of the stream that they are drawn with, by data that draws its rows.

        Returns:
            Samples (count, *shape), None for data without, and conditions, None for data without.
        """
        return self.data.rows(0, self.draws(count, "data", *name))

    def progress(self, items: Iterable[T], title: str, unit: str = "step") -> Iterator[T]:
        """``items`` under a progress bar.

        Arguments:
            items: of any kind.
            title: what the bar is called.
            unit: what it counts.

        Yields:
            The items.
        """
        yield from tqdm(items, desc=title, disable=self.quiet, unit=unit, dynamic_ncols=True)


class _Options:
    """A dataclass of :func:`~stillhouse.train.method.option` fields, checked when it is made."""

    kind: ClassVar[str]
    worlds: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    # which teachers it is for, as Method has it
    processes: ClassVar[tuple[str, ...]] = ("gaussian", "tokens", "bridge")
    forms: ClassVar[tuple[str, ...]] = ()

    def suits(self, teacher: Model) -> None:
        """Refuse a teacher, with :class:`StillhouseError`, before any data is read."""

    published: ClassVar[Published] = {}  # settings for models of Diffusers and Transformers, with sources

    def __post_init__(self) -> None:
        check_options(self)

    def requires(self, need: str) -> bool:
        """Whether it needs ``need`` under these options: a name such as ``teacher`` or ``data``."""
        return requires(self.needs, need, self)

    def describe(self) -> dict[str, Any]:
        """Name and options as plain data, for headers and reports."""
        options = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {"method": type(self).__module__.rpartition(".")[2], "options": options}


class Operation(_Options):
    """A system without a training loop: it searches, composes, edits in closed form, converts."""

    kind = "operation"

    def apply(self, models: Mapping[str, Model], work: Work) -> Model | Network:
        """The product.

        Arguments:
            models: by the name of the need: ``teacher``, and ``student`` where the operation needs one.
            work: data, random numbers, progress.

        Returns:
            A model or a plain network, which :func:`stillhouse.load` opens again when it is saved.
        """
        raise NotImplementedError


@dataclass
class Part:
    """One run of a program: ``method`` trained for ``share`` of the program's iterations on the rows of
    ``data``.

    ``student``: the name of an earlier part whose model it starts from; empty: the method's own choice.
    ``network``: options of the world's network for its student, empty for the teacher's.
    """

    name: str
    method: Method
    share: float = 1.0
    data: Data | None = None
    student: str = ""
    network: Mapping[str, Any] = field(default_factory=dict)
    lr: Mapping[str, float] = field(default_factory=dict)


class Program(_Options):
    """A system of several runs, each resumable, and the way in which their models become one."""

    kind = "program"

    def parts(self, models: Mapping[str, Model], data: Data) -> list[Part]:
        """The runs in their order.

        Arguments:
            models: by the name of the need, as in :meth:`Operation.apply`.
            data: the rows that the whole program may learn from.

        Returns:
            The parts, of different names.
        """
        raise NotImplementedError

    def join(self, models: Mapping[str, Model], made: Mapping[str, Model]) -> Model | Network:
        """One model of those that the parts made.

        Arguments:
            models: as in :meth:`parts`.
            made: the models of the parts, by their names.

        Returns:
            A model or a plain network, which :func:`stillhouse.load` opens again when it is saved.
        """
        raise NotImplementedError
