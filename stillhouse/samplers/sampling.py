"""How a model is sampled: a value that a student carries with its weights, and the function that follows
it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import require
from stillhouse.core.guidance import Guided, takes_guidance
from stillhouse.core.process import Process
from stillhouse.solvers import make_solver
from stillhouse.solvers.grids import make_grid


@dataclass
class Sampling:
    """An explicit time grid, a solver (name or config) and a guidance scale ``w`` (1 = none). Plain data, so
    that it can be saved.

    ``start``: standard deviation of the noise the walk starts from, ``sigma(times[0])`` unless given
    (Diffusers starts VP walks from 1). ``chunk``: a causal video student makes so many frames at a time, 0
    for everything at once; ``window, sink``: how many past frames it keeps (0: all), and how many of the
    first ones among them for ever.
    """

    times: list[float]
    solver: str | dict[str, Any] = "ddim"
    guidance: float = 1.0
    start: float | None = None
    chunk: int = 0
    window: int = 0
    sink: int = 0

    def __post_init__(self) -> None:
        self.times = [float(t) for t in self.times]
        falling = all(0 <= s < t <= 1 for t, s in zip(self.times, self.times[1:], strict=False))
        require(
            len(self.times) >= 2 and falling,
            f"Sampling times must fall strictly within [0, 1], not run {self.times}.",
        )
        require(
            min(self.chunk, self.window, self.sink) >= 0,
            "The chunk, window and sink of a stream are 0 frames or more.",
        )
        require(
            not self.window or self.window >= self.sink + self.chunk,
            f"A window of {self.window} frames can't hold a sink of {self.sink} and a chunk of "
            f"{self.chunk}; take a larger one.",
        )
        make_solver(self.solver)  # a wrong name is told here, not in the middle of a run

    @classmethod
    def steps(
        cls,
        process: Process,
        n: int,
        solver: str | dict[str, Any] = "heun",
        grid: str | dict[str, Any] = "uniform",
        guidance: float = 1.0,
    ) -> Sampling:
        """``n`` steps of ``solver`` along a named ``grid`` of ``process`` (see
        :data:`stillhouse.solvers.grids.GRIDS`)."""
        return cls(make_grid(grid, process, n).tolist(), solver, guidance)

    def guided(self, model: Denoiser) -> Denoiser:
        """``model`` under this guidance; itself at ``w = 1``, and if it hears the scale as an input."""
        return model if self.guidance == 1 or takes_guidance(model) else Guided(model, self.guidance)

    def nfe(self, model: Denoiser, conditional: bool = True) -> int:
        """Network evaluations of one sample, or of one chunk of a stream, whose clean pass is one of them.

        Guidance counts double wherever it acts, on a conditional sample.
        """
        asked, guided = make_solver(self.solver).asked(model.process, self.times), self.guided(model)
        return (sum(_cost(guided, t) for t in asked) if conditional else len(asked)) + bool(self.chunk)

    def config(self) -> dict[str, Any]:
        """Plain data; :meth:`from_config` reads it back."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Sampling:
        """Inverse of :meth:`config`; raises :class:`StillhouseError` for fields that are missing or
        unknown."""
        wrong = sorted(set(config) - {f.name for f in fields(cls)})
        require(
            not wrong and "times" in config,
            f"A sampling holds times, solver and guidance, not {sorted(config)}.",
        )
        return cls(**config)


def _cost(model: Denoiser, t: float) -> int:
    """Evaluations that one conditional call at ``t`` costs, guidance inside guidance included."""
    if not isinstance(model, Guided):
        return _cost(model.net, t) if isinstance(model.net, Denoiser) else 1
    low, high = model.interval
    acts = low <= t <= high and (torch.is_tensor(model.scale) or model.scale != 1)
    # the negative call of an inner guidance is unconditional, so that it is single when the negative is the
    # empty condition
    return _cost(model.plain, t) + (acts and (1 if model.negative is None else _cost(model.plain, t)))
