"""How a model is sampled: a list of legs as plain data, which a student carries with its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided, at_scale
from stillhouse.core.process import Process
from stillhouse.core.structure import checked
from stillhouse.samplers.hooks import check_hooks, hook_calls
from stillhouse.solvers import make_solver
from stillhouse.solvers.grids import make_grid

# a sampling as plain data
KEPT = {
    "legs": [
        {
            "times": [float],
            "solver?": (str, dict),
            "guidance?": float,
            "start?": (float, None),
            "network?": str,
            "size?": ([int], None),
            "blocks?": (int, None),
            "hooks?": [dict],
        }
    ],
    "stream": ({"chunk": int, "window?": int, "sink?": int}, None),
}


@dataclass
class Leg:
    """One part of a walk: a network along a grid of times.

    Arguments:
        times: falling, within [0, 1].
        solver: name or configuration (see :func:`stillhouse.solvers.make_solver`).
        guidance: scale ``w``, 1 for none.
        start: standard deviation of the noise that a first leg starts from; None for ``sigma(times[0])``
            (Diffusers starts variance-preserving walks from 1).
        network: which of the model's companions walks; empty for the model's own denoiser.
        size: height and width of the state on this leg; None for those of the leg before.
        blocks: how many of the network's blocks are computed; None for all.
        hooks: what is done between the clean estimate and the step, as plain data
            (see :mod:`stillhouse.samplers.hooks`).
    """

    times: list[float]
    solver: str | dict[str, Any] = "ddim"
    guidance: float = 1.0
    start: float | None = None
    network: str = ""
    size: tuple[int, int] | None = None
    blocks: int | None = None
    hooks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.times = [float(t) for t in self.times]
        falling = all(0 <= s < t <= 1 for t, s in zip(self.times, self.times[1:], strict=False))
        require(
            len(self.times) >= 2 and falling,
            f"Sampling times must fall strictly within [0, 1], not run {self.times}.",
        )
        make_solver(self.solver)  # a wrong name is refused here, not in the middle of a run
        require(self.blocks is None or self.blocks >= 1, f"A leg runs 1 block or more, not {self.blocks}.")
        require(self.size is None or len(self.size) == 2, f"A leg's size is two numbers, not {self.size}.")
        self.size = None if self.size is None else (int(self.size[0]), int(self.size[1]))
        require(self.size is None or min(self.size) >= 1, f"A leg's size is at least 1 x 1, not {self.size}.")
        check_hooks(self.hooks)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    def walker(self, model: Denoiser, networks: Mapping[str, Denoiser]) -> Denoiser:
        """The denoiser that walks this leg.

        Arguments:
            model: the model's own denoiser.
            networks: the model's companions by name.

        Returns:
            ``model``, or the companion that the leg names.

        Raises:
            StillhouseError: where there is no such companion.
        """
        if not self.network:
            return model
        require(
            self.network in networks,
            f"This sampling wants the companion '{self.network}'; the model has "
            f"{', '.join(networks) or 'none'}.",
        )
        return networks[self.network]

    def guided(self, model: Denoiser) -> Denoiser:
        """``model`` under this guidance; see :func:`stillhouse.core.guidance.at_scale`."""
        return at_scale(model, self.guidance)

    def nfe(
        self, model: Denoiser, conditional: bool = True, networks: Mapping[str, Denoiser] | None = None
    ) -> int:
        """Network evaluations of one sample on this leg, those of its hooks included.

        Arguments:
            model: the model's denoiser.
            conditional: whether the sample has a condition; guidance counts double on one that has.
            networks: the model's companions by name; None for none.

        Returns:
            The number of evaluations.
        """
        walker = self.walker(model, networks or {})
        asked, guided = (
            make_solver(self.solver).evaluation_times(walker.process, self.times),
            self.guided(walker),
        )
        calls = sum(_cost(guided, t) for t in asked) if conditional else len(asked)
        beside = networks or {}
        return calls + sum(hook_calls(hook, asked, self.times, conditional, beside) for hook in self.hooks)

    def config(self) -> dict[str, Any]:
        """Plain data, without what is as usual."""
        usual = {f.name: f.default for f in dataclasses.fields(Leg)} | {"hooks": []}
        made = {k: v for k, v in asdict(self).items() if k == "times" or v != usual[k]}
        return made | ({"size": list(self.size)} if self.size else {})


@dataclass
class Stream:
    """A causal student's way of making clips: chunk by chunk, each of them one walk of the sampling.

    ``chunk``: frames of a chunk. ``window``: how many past frames are kept (0: all); ``sink``: how many of
    the first ones among them for ever.
    """

    chunk: int
    window: int = 0
    sink: int = 0

    def __post_init__(self) -> None:
        require(self.chunk >= 1, f"The chunk of a stream is 1 frame or more, not {self.chunk}.")
        require(min(self.window, self.sink) >= 0, "The window and sink of a stream are 0 frames or more.")
        require(
            not self.window or self.window >= self.sink + self.chunk,
            f"A window of {self.window} frames can't hold a sink of {self.sink} and a chunk of {self.chunk}; "
            "take a larger one.",
        )


@dataclass(init=False)
class Sampling:
    """How a model is sampled: one or several legs, and a stream around them where clips are made in chunks.

    Most have one leg, which ``Sampling(times, solver, guidance, start)`` makes; ``legs`` takes several.
    Plain data, so that it can be saved. :attr:`times`, :attr:`solver`, :attr:`guidance` and :attr:`start` are
    those of the first leg.
    """

    legs: list[Leg]
    stream: Stream | None

    def __init__(
        self,
        times: Sequence[float] | None = None,
        solver: str | dict[str, Any] = "ddim",
        guidance: float = 1.0,
        start: float | None = None,
        *,
        hooks: Sequence[dict[str, Any]] = (),
        legs: Sequence[Leg] = (),
        stream: Stream | None = None,
    ):
        require((times is None) == bool(legs), "A sampling holds times, or legs that hold them.")
        one = [] if times is None else [Leg(list(times), solver, guidance, start, hooks=list(hooks))]
        self.legs, self.stream = [*legs, *one], stream
        require(
            stream is None or (len(self.legs) == 1 and not self.legs[0].size),
            "A stream's chunks are made on one leg.",
        )

    @classmethod
    def steps(
        cls,
        process: Process,
        n: int,
        solver: str | dict[str, Any] = "heun",
        grid: str | dict[str, Any] = "uniform",
        guidance: float = 1.0,
    ) -> Sampling:
        """One leg of ``n`` steps.

        Arguments:
            process: whose times are walked.
            n: number of steps.
            solver: name or configuration of the leg's solver.
            grid: name or configuration of a grid (see :data:`stillhouse.solvers.grids.GRIDS`).
            guidance: scale ``w`` of the leg, 1 for none.

        Returns:
            The sampling.
        """
        return cls(make_grid(grid, process, n).tolist(), solver, guidance)

    @property
    def times(self) -> list[float]:
        """Times of the first leg."""
        return self.legs[0].times

    @property
    def solver(self) -> str | dict[str, Any]:
        """Solver of the first leg."""
        return self.legs[0].solver

    @property
    def guidance(self) -> float:
        """Guidance scale of the first leg."""
        return self.legs[0].guidance

    @property
    def start(self) -> float | None:
        """Deviation of the noise that the walk starts from, where it is not the process's own."""
        return self.legs[0].start

    @property
    def plain(self) -> bool:
        """Whether it is one leg of the model's own denoiser and nothing else, which any scheduler can
        walk."""
        leg = self.legs[0]
        return len(self.legs) == 1 and not (leg.network or leg.size or leg.blocks or leg.hooks or self.stream)

    @property
    def count(self) -> int:
        """Steps of all legs."""
        return sum(leg.steps for leg in self.legs)

    def changed(self, **fields: Any) -> Sampling:
        """The same with other ``solver``, ``guidance`` or ``hooks`` on all legs, another ``start`` of the
        first, or another ``stream``."""
        stream = fields.pop("stream", self.stream)
        start = {"start": fields.pop("start")} if "start" in fields else {}
        legs = [dataclasses.replace(leg, **fields, **({} if i else start)) for i, leg in enumerate(self.legs)]
        return Sampling(legs=legs, stream=stream)

    def guided(self, model: Denoiser) -> Denoiser:
        """``model`` under the first leg's guidance."""
        return self.legs[0].guided(model)

    def nfe(
        self, model: Denoiser, conditional: bool = True, networks: Mapping[str, Denoiser] | None = None
    ) -> int:
        """Network evaluations of one sample, or of one chunk of a stream, whose clean pass is one of them.

        Arguments:
            model: the model's denoiser.
            conditional: whether the sample has a condition; guidance counts double on one that has.
            networks: the model's companions by name; None for none.

        Returns:
            The number of evaluations, of all legs together.
        """
        return sum(leg.nfe(model, conditional, networks) for leg in self.legs) + bool(self.stream)

    def config(self) -> dict[str, Any]:
        """Plain data; :meth:`from_config` reads it back."""
        stream = {} if self.stream is None else {"stream": asdict(self.stream)}
        return {"legs": [leg.config() for leg in self.legs], **stream}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Sampling:
        """Inverse of :meth:`config`; reads the flat form of before as well. Raises :class:`StillhouseError`
        for fields that are missing or unknown."""
        known = {f.name for f in dataclasses.fields(Leg)}
        if "legs" not in config:  # before legs: one of them, the stream's fields among its own
            flat = dict(config)
            chunk, window, sink = (flat.pop(name, 0) for name in ("chunk", "window", "sink"))
            config = {
                "legs": [flat],
                "stream": {"chunk": chunk, "window": window, "sink": sink} if chunk else None,
            }
        legs, stream = config["legs"], config.get("stream")
        checked({"legs": legs, "stream": stream}, KEPT, "A sampling holds legs of times, solver and guidance")
        sound = bool(legs) and all(set(leg) <= known for leg in legs) and set(config) <= {"legs", "stream"}
        require(sound, f"A sampling holds legs of times, solver and guidance, not {str(legs)[:200]}.")
        return cls(legs=[Leg(**leg) for leg in legs], stream=Stream(**stream) if stream else None)


def _cost(model: Denoiser, t: float) -> int:
    """Evaluations that one conditional call at ``t`` costs, guidance inside guidance included."""
    if not isinstance(model, Guided):
        return _cost(model.net, t) if isinstance(model.net, Denoiser) else 1
    low, high = model.interval
    acts = not model.as_input and low <= t <= high and (torch.is_tensor(model.scale) or model.scale != 1)
    # the negative call of an inner guidance is unconditional, so that it is single when the negative is the
    # empty condition
    return _cost(model.plain, t) + (acts and (1 if model.negative is None else _cost(model.plain, t)))
