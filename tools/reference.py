"""What the reference of the documentation shows: the packages, and their documented modules."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
# the reference, from what a user meets first to the mathematics below
PACKAGES = (
    "api model opening train systems samplers solvers forms parts classical metrics worlds io adapters "
    "models "
    "core"
).split()


def modules(package: str) -> list[str]:
    """The documented modules of ``stillhouse.<package>``, by their dotted names."""
    home = ROOT / "stillhouse" / package
    files = sorted(home.rglob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
    made = []
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        tree = ast.parse(file.read_text())
        public = any(
            isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[:1] != "_" for node in tree.body
        )
        if public and parts[-1] not in ("__init__", "__main__"):
            made.append(".".join(parts))
    return made


def documented() -> list[str]:
    """The packages of the reference that are there."""
    there = {path.stem for path in (ROOT / "stillhouse").iterdir()}
    return [package for package in PACKAGES if package in there]
