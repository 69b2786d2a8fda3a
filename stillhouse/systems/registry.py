"""Which systems there are: read from the method files themselves, so that a new file is known without another
edit.

Listing parses the files and imports nothing; :func:`find` imports the one that is asked for, or a file from
outside the tree.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import StillhouseError, require, unknown

if TYPE_CHECKING:
    from stillhouse.train.method import Method

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE / "systems"


@dataclass(frozen=True)
class System:
    """One system. ``paper``: title, authors, year and number; ``file``: relative to the folder that holds the
    package."""

    slug: str
    family: str
    paper: str
    file: str
    worlds: tuple[str, ...]
    needs: tuple[str, ...]
    name: str

    def config(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def families() -> list[str]:
    """The families of methods: folders with at least one system."""
    return sorted({s.family for s in list_systems()})


def list_systems(family: str | None = None, world: str | None = None) -> list[System]:
    """Every system (of one family, of one world), by family and slug. Raises :class:`StillhouseError` for an
    unknown one of these."""
    found = [read_system(file) for file in sorted(ROOT.glob("*/*.py")) if not file.name.startswith("_")]
    known = {s.family for s in found}
    if family is not None and family not in known:
        raise unknown("family", family, known)
    worlds = {w for s in found for w in s.worlds}
    if world is not None and world not in worlds:
        raise unknown("world of a system", world, worlds)
    return [s for s in found if family in (None, s.family) and (world is None or world in s.worlds)]


def get_system(slug: str) -> System:
    """The entry of a slug; raises :class:`StillhouseError` with the nearest one if there is none."""
    known = {s.slug: s for s in list_systems()}
    if slug not in known:
        raise unknown("method", slug, known)
    return known[slug]


def read_system(file: Path) -> System:
    """What a method file says of itself, without importing it."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise StillhouseError(
            f"The method file '{file}' is not valid Python: {error.msg} in line {error.lineno}."
        ) from error
    found = _method_classes(tree)
    require(
        len(found) == 1,
        f"The method file '{file}' must hold one method class, not {len(found)} "
        f"({', '.join(c.name for c in found) or 'none'}).",
    )
    (node,) = found
    doc = ast.get_docstring(node) or ast.get_docstring(tree) or ""
    return System(
        slug=file.stem,
        family=file.parent.name.replace("_", "-"),  # a package has no hyphen in its name
        paper=citation(doc),
        file=file.relative_to(PACKAGE.parent).as_posix()
        if file.is_relative_to(PACKAGE.parent)
        else str(file),
        worlds=_words(node, "worlds"),
        needs=_words(node, "needs"),
        name=node.name,
    )


def citation(doc: str) -> str:
    """The head of a docstring up to its arXiv number, or its first paragraph if it names none there."""
    paragraph = " ".join(doc.strip().split("\n\n")[0].split())
    cited = re.match(r".*?arXiv[ :]?\d{4}\.\d{4,5}", paragraph)
    if not cited:
        return paragraph
    head = cited.group()
    return head + ")" if head.count("(") > head.count(")") else head


def _method_classes(tree: ast.Module) -> list[ast.ClassDef]:
    """Public classes made from ``Method``, from a class of ``parts`` that says which ``worlds`` it is for, or
    from each other.

    A class that another one in the file is made from is a step on the way, not the method.
    """
    shared = {"Method"}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("stillhouse.parts", "stillhouse.classical")
        ):
            shared |= {alias.asname or alias.name for alias in node.names}
    known: dict[str, ast.ClassDef] = {}
    parents: set[str] = set()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {ast.unparse(base).split("[")[0].rpartition(".")[2] for base in node.bases}
        if (
            bases & {"Method", "Operation", "Program"}
            or bases & set(known)
            or (bases & shared and _assigned(node, "worlds") is not None)
        ):
            known[node.name] = node
            parents |= bases & set(known)
    return [node for name, node in known.items() if name not in parents and not name.startswith("_")]


def _assigned(node: ast.ClassDef, name: str) -> ast.expr | None:
    for line in node.body:
        targets = (
            line.targets
            if isinstance(line, ast.Assign)
            else [line.target]
            if isinstance(line, ast.AnnAssign)
            else []
        )
        if isinstance(line, ast.Assign | ast.AnnAssign) and any(
            isinstance(t, ast.Name) and t.id == name for t in targets
        ):
            return line.value
    return None


def _words(node: ast.ClassDef, name: str) -> tuple[str, ...]:
    value = _assigned(node, name)
    try:
        return tuple(ast.literal_eval(value)) if value is not None else ()
    except ValueError as error:
        raise StillhouseError(
            f"'{name}' of the method {node.name} must be a tuple of plain words."
        ) from error


def find(name: str) -> type[Method]:
    """The method class of a slug (``"cm"``) or of a file (``"./my_method.py"``,
    ``"./my_method.py:MyMethod"``).

    Raises :class:`StillhouseError` for an unknown slug, a file that is missing or can't be imported, a class
    that isn't in it or is no method, and for a system that is a scikit-learn estimator.
    """
    from stillhouse.train.method import Method

    if ".py" in name:
        return _outside(name)
    found = class_of(name)
    where = f"from {found.__module__} import {found.__name__}"
    require(
        issubclass(found, Method),
        f"'{name}' is no run but a scikit-learn estimator; use it from Python: {where}.",
    )
    return found


def class_of(name: str) -> type[Any]:
    """The class of a slug, a :class:`Method` or a scikit-learn estimator."""
    system = get_system(name.lower().replace("-", "_"))
    return getattr(import_module(system.file.removesuffix(".py").replace("/", ".")), system.name)


def _outside(name: str) -> type[Method]:
    from stillhouse.train.method import Method

    file, _, wanted = name.partition(":")
    path = Path(file)
    require(path.is_file(), f"There is no method file '{file}'.")
    module_name = f"stillhouse_outside.{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    require(spec is not None and spec.loader is not None, f"'{file}' is not a Python file.")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except (
        Exception
    ) as error:  # the user's file may fail in any way; all of them are news for the user, not a crash of ours
        del sys.modules[module_name]
        raise StillhouseError(
            f"The method file '{file}' can't be imported: {type(error).__name__}: {error}."
        ) from error
    classes = {n: c for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module_name}
    methods = {n: c for n, c in classes.items() if issubclass(c, Method)}
    held = ", ".join(methods) or "none"
    if wanted:
        require(wanted in vars(module), f"There is no class '{wanted}' in '{file}'; its methods: {held}.")
        chosen = vars(module)[wanted]
        require(
            inspect.isclass(chosen) and issubclass(chosen, Method),
            f"'{wanted}' in '{file}' is not a Method; its methods: {held}.",
        )
        return chosen
    require(
        len(methods) == 1,
        f"'{file}' holds {len(methods)} methods ({held}); say which, as {path.name}:ClassName.",
    )
    return next(iter(methods.values()))


def markdown_table() -> str:
    """The README's table of systems."""
    rows = ["| system | paper | family | worlds | needs |", "|---|---|---|---|---|"]
    for s in list_systems():
        needs = ", ".join(s.needs) or "a teacher"
        rows.append(f"| [`{s.slug}`]({s.file}) | {s.paper} | {s.family} | {', '.join(s.worlds)} | {needs} |")
    return "\n".join(rows)
