"""A run as plain data: what is made of what, how, and where. One YAML file is one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stillhouse.api.options import read_yaml
from stillhouse.api.trust import code_in, digests
from stillhouse.api.versions import versions
from stillhouse.core.errors import require, unknown
from stillhouse.core.structure import Structure, checked
from stillhouse.io.weights import atomic_write

CONFIG, CACHE = "run.yaml", "cache"  # in a run's folder
COMMON = ("command", "method", "system", "world", "data", "options", "run", "out", "quiet")
MADE = ("code", "versions")  # written for the reader, and for a later look
OPENING = ("height", "width", "frames", "dtype")  # how the teacher's pipeline is opened
SAME = ("world", "student", "process", "kind", "negative_prompt", *OPENING)  # of a run and what it goes on as
ENTRIES = {
    "train": (*COMMON, *MADE, "network", "process", "kind"),
    "distill": (
        *COMMON,
        *MADE,
        "teacher",
        "adapter",
        "network",
        *OPENING,
        "negative_prompt",
        "student",
        "validation_prompts",
        "settings",
    ),
}
# what each entry holds
ENTRY: dict[str, Structure] = {
    "command?": str,
    **{f"{name}?": (dict, str, None) for name in ("world", "student", "network", "process")},
    **{f"{name}?": (dict, None) for name in ("options", "run", "versions")},
    **{f"{name}?": (int, None) for name in ("height", "width", "frames")},
    "quiet?": (bool, None),
    "code?": ({"*": str}, None),
    "validation_prompts?": ([str], str, None),
    **{
        f"{name}?": (str, None)
        for name in (
            *("method", "system", "data", "out", "kind", "teacher", "adapter", "dtype"),
            *("negative_prompt", "settings"),
        )
    },
}


@dataclass
class Run:
    """One run, each thing by its name; nothing is opened before it starts.

    ``command``: ``distill`` (there is a teacher) or ``train``. ``system``: a slug or ``FILE.py:CLASS``.
    ``teacher``, ``world``, ``data``, ``student``: as :func:`stillhouse.distill` takes them; None where the
    object was only in memory. ``negative_prompt``: what the teacher is guided away from; None: the system's
    own, mostly none. ``network``, ``process``, ``kind``: of a model that is trained from scratch.
    ``teacher``, ``network`` and ``data`` may name code of the user's, ``FILE.py:NAME``; of a distillation
    ``network`` is the code of a teacher that is a folder of weights. A file's code is never run by itself.
    ``height``, ``width``, ``frames``, ``dtype``: of a Diffusers pipeline, None for its own.
    ``validation_prompts``: to sample the student with now and then. ``settings``: which published settings
    the options and the recipe below come from, for the reader alone. ``options``: the system's own,
    ``recipe``: the fields of :class:`~stillhouse.train.recipe.Recipe` by the names of
    :func:`~stillhouse.api.options.run_fields`.
    """

    command: str = "distill"
    system: str | None = None
    teacher: str | None = None
    adapter: str | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    dtype: str | None = None
    validation_prompts: Sequence[str] = ()
    settings: str | None = None
    world: Mapping[str, Any] | str | None = None
    data: str | None = "auto"
    student: Mapping[str, Any] | str | None = field(default_factory=dict)
    network: Mapping[str, Any] | str | None = field(default_factory=dict)
    process: Mapping[str, Any] | str | None = None
    kind: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    out: str | Path | None = None

    def entries(self) -> dict[str, Any]:
        """The entries of its file, without the folder that the file lies in."""
        own: dict[str, Any]
        if self.command == "train":
            own = {
                "world": self.world,
                "data": self.data,
                "network": self.network,
                "process": self.process,
                "kind": self.kind,
            }
        else:
            own = {
                "teacher": self.teacher,
                **{name: v for name in ("adapter", "network", *OPENING) if (v := getattr(self, name))},
                **({} if self.negative_prompt is None else {"negative_prompt": self.negative_prompt}),
                "world": self.world,
                "data": self.data,
                "student": self.student,
                **{name: v for name in ("validation_prompts", "settings") if (v := getattr(self, name))},
            }
        head = {"command": self.command, "method": self.system}
        entries: dict[str, Any] = _listed({**head, **own, "options": self.options, "run": self.recipe})
        return entries

    @property
    def opening(self) -> dict[str, Any]:
        """The options of opening the teacher's pipeline that are given, as
        :func:`stillhouse.io.pipelines.open_pipeline` takes them."""
        return {name: value for name in OPENING if (value := getattr(self, name)) is not None}

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Its file's text, with the digests of code and the versions it is made with; written to ``path`` if
        that is given."""
        entries = self.entries()
        made = {"code": code} if (code := digests(entries)) else {}
        text = yaml.safe_dump(
            {**entries, **made, "versions": versions()}, sort_keys=False, allow_unicode=True
        )
        if path is not None:
            atomic_write(Path(path), text.encode())
        return text

    @classmethod
    def from_yaml(cls, path: str | Path, command: str = "", *, code: bool = False) -> Run:
        """The run that a file describes.

        Arguments:
            path: the file, or the folder of a run.
            command: refuse a file of another command; empty: any.
            code: the file may name code, which then runs.

        Returns:
            The run; one that is read from its own folder is to stay there (``out``).
        """
        file = Path(path) / CONFIG if Path(path).is_dir() else Path(path)
        entries = read_entries(file, command)
        named = ", ".join(code_in(entries).values())
        require(
            code or not named, f"'{file}' names code, {named}; read it with code=True if that may be run."
        )
        run = cls.from_entries(entries)
        if run.out is None and file.name == CONFIG:
            run.out = file.parent
        return run

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Run:
        """The run of a file's entries, or of the command line's."""
        given = {k: v for k, v in entries.items() if k not in (*MADE, "quiet", "method", "run")}
        given["system"] = entries.get("system") or entries.get("method")
        given["recipe"] = dict(entries.get("run") or {})
        given["options"] = dict(entries.get("options") or {})
        network = entries.get("network", {})
        given["network"] = dict(network or {}) if isinstance(network, Mapping) else network
        return cls(**given)


def recorded_entries(path: Path) -> dict[str, Any]:
    """The entries of a run's file as they were written, each of the type that it must be; an unknown one may
    be among them, of a later version. Raises :class:`StillhouseError` for a missing or torn file, or another
    type."""
    entries: dict[str, Any] = checked(read_yaml(path), ENTRY, f"'{path}' can't be read")
    return entries


def read_entries(path: Path, command: str = "") -> dict[str, Any]:
    """The entries of a run's file, checked by name.

    Arguments:
        path: the YAML file.
        command: ``train`` or ``distill``, refuse a file of another command; empty for any.

    Returns:
        The entries, ``command`` among them.

    Raises:
        StillhouseError: for a missing or torn file, another command's, and an unknown entry.
    """
    read = recorded_entries(path)
    meant = read.get("command", command or "distill")
    require(
        not command or meant == command,
        f"'{path}' describes a run of stillhouse {meant}, not of stillhouse {command}.",
    )
    if meant not in ENTRIES:
        raise unknown("command of a run", str(meant), ENTRIES)
    for entry in read:
        if entry not in ENTRIES[meant]:
            raise unknown("entry of a run file", str(entry), ENTRIES[meant])
    return {**read, "command": meant}


def require_same(recorded: Mapping[str, Any], entries: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a run as another one. The teacher and data may lie elsewhere now: of these the
    loop compares what they hold.

    Arguments:
        recorded: the entries of the run's file.
        entries: of the run as it would go on.
        folder: of the run, for the sentence.

    Raises:
        StillhouseError: naming the entries that differ.
    """
    changed = [
        name
        for name in SAME
        if entries.get(name) and name in recorded and _listed(entries[name]) != _listed(recorded[name])
    ]
    require(
        not changed,
        f"The run in '{folder}' was started with another {' and '.join(changed)}; give the same to resume "
        "it, or start a new run.",
    )


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down: plain YAML has no tuples."""
    if isinstance(value, Mapping):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, tuple | list) else value
