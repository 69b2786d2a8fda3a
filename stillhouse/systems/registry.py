"""Which systems there are: read from their files themselves, so that a new file is known without another
edit.

Listing parses the files and imports nothing; :func:`find` imports the one that is named, or a file from
outside the tree.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from stillhouse.core.errors import StillhouseError, require, unknown
from stillhouse.train.needs import read_need

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE / "systems"


KINDS = ("method", "operation", "program", "estimator")


@dataclass(frozen=True)
class System:
    """One system, as its file declares it.

    ``kind``: of :data:`KINDS`. ``paper``: title, authors, year and number. ``file``: relative to the folder
    that holds the package. ``needs``: as :mod:`stillhouse.train.needs` reads them. ``name``: of its class.
    ``problem``: what is wrong with the file, in one sentence; all that is not known of it then is empty.
    """

    slug: str
    kind: str
    family: str
    paper: str
    file: str
    worlds: tuple[str, ...]
    needs: tuple[str, ...]
    name: str
    problem: str = ""

    def config(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def needs_text(self) -> str:
        """The needs for a person: ``teacher; data, unless gan_weight=0``."""
        return "; ".join(read_need(need).phrase() for need in self.needs) or "nothing"


def families() -> list[str]:
    """The families of methods: folders with at least one system."""
    return sorted({s.family for s in list_systems()})


def list_systems(
    family: str | None = None, world: str | None = None, kind: str | None = None
) -> list[System]:
    """Every system, by family and slug; a file that can't be read as one is a row with a ``problem``.

    Arguments:
        family: only of this family.
        world: only those that can be tried in this world.
        kind: only of this kind.

    Returns:
        The rows. Raises :class:`StillhouseError` for a family, world or kind that no system is of.
    """
    found = [read_system(file) for file in _files()]
    known = {s.family for s in found}
    if family is not None and family not in known:
        raise unknown("family", family, known)
    worlds = {w for s in found for w in s.worlds}
    if world is not None and world not in worlds:
        raise unknown("world of a system", world, worlds)
    if kind is not None and kind not in KINDS:
        raise unknown("kind of system", kind, KINDS)
    return [
        s
        for s in found
        if family in (None, s.family) and kind in (None, s.kind) and (world is None or world in s.worlds)
    ]


def get_system(slug: str) -> System:
    """The row of a slug; raises :class:`StillhouseError` with the nearest one if there is none, and with what
    is wrong with its file if that can't be read."""
    found = next((read_system(file) for file in _files() if file.stem == slug), None)
    if found is None:
        raise unknown("method", slug, [s.slug for s in list_systems()])
    require(not found.problem, found.problem)
    return found


def _files() -> list[Path]:
    return [file for file in sorted(ROOT.glob("*/*.py")) if not file.name.startswith("_")]


def read_system(file: Path) -> System:
    """What a system's file declares, without importing it; a file that is none gives a row with its
    ``problem``. A file is read once, and again when it has changed."""
    try:
        state = file.stat()
    except OSError:
        return _read(file, 0, 0)
    return _read(file, state.st_mtime_ns, state.st_size)


@cache
def _read(file: Path, _modified: int, _size: int) -> System:
    inside = file.is_relative_to(PACKAGE.parent)
    place = file.relative_to(PACKAGE.parent).as_posix() if inside else str(file)
    family = file.parent.name.replace("_", "-")  # a package has no hyphen in its name
    try:
        node, doc = _system_class(file)
        kind = _literal(node, "kind")
        if kind not in KINDS:
            raise unknown(f"kind of system in '{file}'", str(kind), KINDS)
        worlds, needs = (_words(node, name) for name in ("worlds", "needs"))
        for need in needs:
            read_need(need)
    except StillhouseError as error:
        return System(file.stem, "", family, "", place, (), (), "", str(error))
    return System(file.stem, kind, family, citation(doc), place, worlds, needs, node.name)


def citation(doc: str) -> str:
    """The head of a docstring up to its arXiv number, or its first paragraph if it names none there."""
    paragraph = " ".join(doc.strip().split("\n\n")[0].split())
    cited = re.match(r".*?arXiv[ :]?\d{4}\.\d{4,5}", paragraph)
    if not cited:
        return paragraph
    head = cited.group()
    return head + ")" if head.count("(") > head.count(")") else head


def _system_class(file: Path) -> tuple[ast.ClassDef, str]:
    """The public class of a file that names its kind, and its docstring or else the file's."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise StillhouseError(
            f"The system's file '{file}' is not valid Python: {error.msg} in line {error.lineno}."
        ) from error
    except (OSError, ValueError) as error:  # not readable, not UTF-8, or with null bytes
        raise StillhouseError(f"The system's file '{file}' can't be read: {error}.") from error
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and _assigned(node, "kind") is not None
    ]
    require(
        len(found) == 1,
        f"The system's file '{file}' must hold one public class that names its kind, not {len(found)} "
        f"({', '.join(c.name for c in found) or 'none'}).",
    )
    return found[0], ast.get_docstring(found[0]) or ast.get_docstring(tree) or ""


def _assigned(node: ast.ClassDef, name: str) -> ast.expr | None:
    for line in node.body:
        if isinstance(line, ast.Assign):
            targets = line.targets
        elif isinstance(line, ast.AnnAssign):
            targets = [line.target]
        else:
            continue
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return line.value
    return None


def _literal(node: ast.ClassDef, name: str) -> Any:
    value = _assigned(node, name)
    try:
        return () if value is None else ast.literal_eval(value)
    except (ValueError, TypeError) as error:
        raise StillhouseError(
            f"'{name}' of the system {node.name} must be written as plain words, not as an expression."
        ) from error


def _words(node: ast.ClassDef, name: str) -> tuple[str, ...]:
    value = _literal(node, name)
    words = isinstance(value, tuple | list) and all(isinstance(word, str) for word in value)
    require(words, f"'{name}' of the system {node.name} must be a tuple of plain words.")
    return tuple(value)


def find(name: str) -> type[Any]:
    """The class of a slug (``"cm"``) or of a file (``"./my_method.py"``, ``"./my_method.py:MyMethod"``): a
    method, an operation or a program, by its ``kind``.

    Raises :class:`StillhouseError` for an unknown slug, a file that is missing or can't be imported, a class
    that isn't in it or is no system, and for a slug that is a scikit-learn estimator.
    """
    if ".py" in name:
        return _outside(name)
    found = class_of(name)
    where = f"from {found.__module__} import {found.__name__}"
    require(
        found.kind != "estimator",
        f"'{name}' is no run but a scikit-learn estimator; use it from Python: {where}.",
    )
    return found


def class_of(name: str) -> type[Any]:
    """The class of a slug, of any kind."""
    system = get_system(name.lower().replace("-", "_"))
    module = import_module(system.file.removesuffix(".py").replace("/", "."))
    found: type[Any] = getattr(module, system.name)
    return found


def _is_system(value: object) -> bool:
    """Whether a value in a user's module is a system; a method need not name its kind there."""
    return inspect.isclass(value) and getattr(value, "kind", None) in KINDS


def _outside(name: str) -> type[Any]:
    file, _, wanted = name.partition(":")
    path = Path(file)
    require(path.is_file(), f"There is no system's file '{file}'.")
    require(path.suffix.startswith(".py"), f"'{file}' is not a Python file.")
    from stillhouse.io.own import imported  # here: it imports torch, and listing needs none

    try:
        module = imported(path, "stillhouse_outside")
    except Exception as error:  # the user's file may fail in any way: news for the user, no crash of ours
        raise StillhouseError(
            f"The system's file '{file}' can't be imported: {type(error).__name__}: {error}."
        ) from error
    made = vars(module)
    classes = {n: c for n, c in made.items() if inspect.isclass(c) and c.__module__ == module.__name__}
    found = {n: c for n, c in classes.items() if _is_system(c)}
    held = ", ".join(found) or "none"
    if wanted:
        require(wanted in made, f"There is no class '{wanted}' in '{file}'; its systems: {held}.")
        chosen: type[Any] = made[wanted]
        require(
            _is_system(chosen), f"'{wanted}' in '{file}' is not a system of any kind; its systems: {held}."
        )
        return chosen
    require(
        len(found) == 1,
        f"'{file}' holds {len(found)} systems ({held}); name one, as {path.name}:ClassName.",
    )
    return next(iter(found.values()))


def markdown() -> str:
    """The page ``docs/systems.md``: how many systems of each kind, and a table of each family."""
    rows = [s for s in list_systems() if not s.problem]
    counts = [
        f"{n} {kind}{'s' if n > 1 else ''}" for kind in KINDS if (n := sum(s.kind == kind for s in rows))
    ]
    lines = [
        "# Systems",
        "",
        f"{len(rows)} systems: {', '.join(counts)}. Written by `stillhouse systems --markdown` from "
        "the systems' own files.",
    ]
    for family in sorted({s.family for s in rows}):
        lines += [
            "",
            f"## {family}",
            "",
            "| system | kind | paper | worlds | needs |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| [`{s.slug}`](../{s.file}) | {s.kind} | {s.paper} | {', '.join(s.worlds) or 'any'} "
            f"| {s.needs_text} |"
            for s in rows
            if s.family == family
        ]
    return "\n".join(lines) + "\n"
