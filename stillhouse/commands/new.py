"""``stillhouse new``: the skeleton of a system, of its check, its oracle and its paragraph of docs."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from stillhouse.commands.parser import Parser
from stillhouse.commands.skeletons import CHECKS, ORACLES, SYSTEMS, paragraph
from stillhouse.core.errors import require
from stillhouse.systems.registry import KINDS, list_systems


def new(words: list[str]) -> int:
    """``stillhouse new SYSTEM --family F --kind K``"""
    parser = Parser(
        "new",
        "Write the skeleton of a system, of its check and of an oracle of its losses: a small working "
        "example of its kind, which passes its contract suite as it stands, with the places marked where "
        "the mathematics goes.",
    )
    parser.add_argument("system", metavar="SYSTEM", help="its name: small letters, digits and underscores")
    parser.add_argument("--family", required=True, help="folder of related systems; a new one is made")
    parser.add_argument("--kind", choices=KINDS, default="method", help="[method]")
    parser.add_argument(
        "--dir",
        default=".",
        metavar="DIR",
        help="the checkout: the folder that holds stillhouse/ and docs/ [.]",
    )
    given = parser.parse(words)
    for path in write_system(given.system, given.family.replace("-", "_"), given.kind, Path(given.dir)):
        print(path)
    print(f"next: pytest tests/systems -k {given.system}; stillhouse check {given.system}")
    return 0


def write_system(slug: str, family: str, kind: str, root: Path) -> list[Path]:
    """Write the skeletons of a system; nothing is written unless all of it can be.

    Arguments:
        slug: the system's name, of small letters, digits and underscores.
        family: the name of its folder, of the same.
        kind: ``method``, ``operation``, ``program`` or ``estimator``.
        root: the folder that holds the package ``stillhouse``.

    Returns:
        The files written or added to. Raises :class:`StillhouseError` for names that are invalid or taken.
    """
    for what, name in (("system", slug), ("family", family)):
        valid = re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name)
        require(bool(valid), f"The name of a {what} is small letters, digits and underscores, not '{name}'.")
    package = root / "stillhouse"
    require((package / "systems").is_dir(), f"'{root}' is no checkout: it holds no stillhouse/systems.")
    taken = {s.slug: s.file for s in list_systems()} | {
        p.stem: p.relative_to(root).as_posix() for p in (package / "systems").glob("*/*.py")
    }
    require(slug not in taken, f"There is a system '{slug}' already: {taken.get(slug)}.")
    name = "".join(word.capitalize() for word in slug.split("_"))
    files = {
        package / "systems" / family / f"{slug}.py": SYSTEMS[kind],
        package / "checks" / family / f"{slug}.py": CHECKS[kind],
    }
    tests = root / "tests" / "systems"
    if kind in ORACLES and tests.is_dir():
        files[tests / family / f"oracle_{slug}.py"] = ORACLES[kind]
    for path in files:
        require(not path.exists(), f"'{path}' exists already.")
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        if path.is_relative_to(package):
            (path.parent / "__init__.py").touch()
        path.write_text(_filled(text, slug, family, name), encoding="utf-8")
    page = root / "docs" / f"{family.replace('_', '-')}.md"
    if page.parent.is_dir():
        head = page.read_text(encoding="utf-8").rstrip() if page.exists() else f"# {family}"
        page.write_text(f"{head}\n\n{paragraph(slug, family)}", encoding="utf-8")
        files[page] = ""
    return list(files)


def _filled(text: str, slug: str, family: str, name: str) -> str:
    """A skeleton with its names, its own imports in the order that they have under these."""
    made = text.replace("SLUG", slug).replace("FAMILY", family).replace("NAME", name)
    lines = made.splitlines()
    ours = [i for i, line in enumerate(lines) if line.startswith("from stillhouse.")]
    for i, line in zip(ours, sorted((lines[i] for i in ours), key=lambda x: x.split()[1]), strict=True):
        lines[i] = line
    return "\n".join(lines) + "\n"
