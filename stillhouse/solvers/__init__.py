"""One solver a file, and the registry by which a run's config names them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from stillhouse.core.errors import require, unknown
from stillhouse.solvers.base import Solver
from stillhouse.solvers.bridge import Posterior
from stillhouse.solvers.ddim import DDIM
from stillhouse.solvers.dpm import DPMpp
from stillhouse.solvers.heun import Heun
from stillhouse.solvers.simple import GammaSampling, Leap, Renoise
from stillhouse.solvers.tokens import Ancestral, Confidence, Psi
from stillhouse.solvers.unipc import UniPC

SOLVERS: dict[str, type[Solver]] = {
    kind.name: kind
    for kind in (
        DDIM,
        Heun,
        DPMpp,
        UniPC,
        Renoise,
        GammaSampling,
        Leap,
        Posterior,
        Ancestral,
        Confidence,
        Psi,
    )
}


def make_solver(config: str | dict[str, Any] | Solver) -> Solver:
    """The solver that a name (with its defaults) or :meth:`Solver.config` describes; a solver is returned as
    it is.

    Raises :class:`StillhouseError` for an unknown name or parameter.
    """
    if isinstance(config, Solver):
        return config
    given = {"name": config} if isinstance(config, str) else dict(config)
    name = str(given.pop("name", ""))
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    known = [f.name for f in fields(SOLVERS[name])]  # type: ignore[arg-type]
    wrong = sorted(set(given) - set(known))
    require(
        not wrong,
        f"Solver '{name}' has no parameter {', '.join(wrong)}; it has {', '.join(known) or 'none'}.",
    )
    return SOLVERS[name](**given)
