"""What a figure means: its direction, its unit, and how it is called. Metric modules declare theirs beside
the functions, a world collects those that it measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stillhouse.core.errors import StillhouseError, require

ARROWS = {"low": "↓", "high": "↑", "one": "→ 1", "data": "≈"}


@dataclass(frozen=True)
class Metric:
    """One metric. ``name``: its key in an evaluation; ``better``: ``low``, ``high``, ``one`` (the nearer to
    1) or ``data`` (the nearer to the figure of real data); ``unit``: as in "dB" or "share", empty for a bare
    number; ``help``: what it measures; ``title``: for pages, made of the name if not given."""

    name: str
    better: str
    unit: str = ""
    help: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        require(
            self.better in ARROWS,
            f"The metric '{self.name}' is better {', '.join(ARROWS)}, not '{self.better}'.",
        )
        if not self.title:
            object.__setattr__(self, "title", self.name.replace("_", " ").capitalize())

    @property
    def arrow(self) -> str:
        """The direction as a sign."""
        return ARROWS[self.better]

    @property
    def note(self) -> str:
        """Unit and meaning in one phrase."""
        return " ".join(part for part in (self.unit, self.help) if part)

    def config(self) -> dict[str, str]:
        """Plain data, but for the name."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


def declared(names: Iterable[str], known: Iterable[Metric], where: str) -> dict[str, Metric]:
    """The metrics of some names, in their order.

    Arguments:
        names: keys of figures.
        known: the metrics that are declared; of two with one name the first counts.
        where: what was measured, for the error's sentence.

    Returns:
        By name. Raises :class:`StillhouseError` for a figure whose direction nobody declared.
    """
    table: dict[str, Metric] = {}
    for metric in known:
        table.setdefault(metric.name, metric)
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in table:
            raise StillhouseError(
                f"{where} measured '{name}', but declares no direction for it: add "
                f"Metric('{name}', better=…) to its metrics."
            )
    return {name: table[name] for name in names}


def from_config(configs: Mapping[str, Mapping[str, Any]]) -> list[Metric]:
    """The metrics that an evaluation's file describes, by name; raises :class:`StillhouseError` for a torn
    description."""
    try:
        return [Metric(name, **config) for name, config in configs.items()]
    except TypeError as error:
        raise StillhouseError(
            f"The evaluation's metrics can't be read ({error}); evaluate it again."
        ) from error


ACCURACY = Metric(
    "accuracy", "high", "share", "of samples that show the class of their label", "Class accuracy"
)
# of every evaluation beside a teacher
PAIRED_RMSE = Metric("paired_rmse", "low", "", "to the teacher's endpoint from the same noise", "Paired RMSE")
