"""The settings that a run begins with: those published for the kind of model that its teacher is, under what
is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stillhouse.api.options import RENAMED, fields_of, run_fields
from stillhouse.core.spellings import current_options
from stillhouse.io.language import Pretrained
from stillhouse.io.pipelines import Family
from stillhouse.io.pipelines.video import VideoFamily
from stillhouse.model import Model
from stillhouse.opening import shipped
from stillhouse.train.published import Settings, for_kinds


@dataclass
class Defaults:
    """Options of a system, entries of its run, and what they are by default, as a line; empty where the
    defaults are those of our worlds."""

    options: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    line: str = ""


def kinds_of(teacher: Model) -> tuple[str, ...]:
    """What a teacher is, as published settings are listed (:data:`stillhouse.train.published.Published`),
    from the general to the particular; none for a world's, a shipped one or a network of one's own, which are
    of the size that our own settings are for."""
    family = teacher.pipeline
    if family is None:
        return ("language",) if isinstance(teacher.tokenizer, Pretrained) else ()
    if family.folder in shipped().values():
        return ()
    classes = [c for c in reversed(type(family).__mro__) if issubclass(c, Family)]
    names = [c.__name__.lower() for c in classes if c not in (Family, VideoFamily)]
    return ("pipeline", *names, *(["edm"] if family.schedule.is_edm else []))


def continued(
    kind: type[Any], recorded: Mapping[str, Any], options: Mapping[str, Any], run: Mapping[str, Any]
) -> Defaults:
    """The settings of a run that goes on: its own, under what is given.

    Arguments:
        kind: class of the system.
        recorded: the entries of the run's file.
        options: of the system, as given.
        run: entries of the run, as given.

    Returns:
        The settings.
    """
    mine, theirs = fields_of(kind), run_fields()
    own = current_options(recorded.get("options") or {}, mine)
    before = current_options(recorded.get("run") or {}, theirs)
    given = current_options(run, theirs)
    rates = {**(before.get("lr") or {}), **(given.get("lr") or {})}
    entries = {**before, **given} | ({"lr": rates} if rates else {})
    return Defaults({**own, **current_options(options, mine)}, entries, str(recorded.get("settings") or ""))


def beginning(
    kind: type[Any], slug: str, teacher: Model, options: Mapping[str, Any], run: Mapping[str, Any]
) -> Defaults:
    """The settings of a new run: those published for the teacher's kind, under what is given.

    Arguments:
        kind: class of the system.
        slug: its name, for the line.
        teacher: whose kind counts.
        options: of the system, as given.
        run: entries of the run, as given.

    Returns:
        The settings, with the line that states them.
    """
    options, run = current_options(options, fields_of(kind)), current_options(run, run_fields())
    rank = int(run.get("lora") or 0)
    found: Settings | None = for_kinds(kind.published, kinds_of(teacher), rank > 0)
    if found is None:
        return Defaults(dict(options), dict(run))
    entries = {RENAMED.get(k, k): v for k, v in found.run.items() if k != "lora"}
    if "lora_alpha" in entries:  # its ratio to the rank is what scales an adapter's effect
        entries["lora_alpha"] *= rank / found.run["lora"]
    rates = {**found.lr, **(run.get("lr") or {})}
    made = Defaults({**found.options, **options}, {**entries, **run} | ({"lr": rates} if rates else {}))
    taken = {k: v for k, v in found.options.items() if k not in options}
    flags = {RENAMED.get(name, name): flag for flag, name in run_fields(fields_of(kind)).items()}
    taken |= {flags[k]: v for k, v in entries.items() if k not in run}
    shown = {f"lr {player}": rate for player, rate in rates.items()} | taken
    values = ", ".join(f"{name} {_short(value)}" for name, value in shown.items())
    what = type(teacher.pipeline.pipe).__name__.removesuffix("Pipeline") if teacher.pipeline else "language"
    adapter = f", LoRA of rank {rank}" + _published_rank(found, rank) if rank else ""
    made.line = f"{slug} for {what}{adapter}: {values}; source: {found.source}"
    return made


def _published_rank(found: Settings, rank: int) -> str:
    known = found.run.get("lora", rank)
    return "" if known == rank else f" (published: {known})"


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(_short, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
