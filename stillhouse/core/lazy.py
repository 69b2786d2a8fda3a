"""Names that a package offers and imports only when they are first touched.

The package writes its imports once, under ``if TYPE_CHECKING:``, where a type checker reads them; at run time
the same lines are read here, so that the two can't differ.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package assigns to its ``__getattr__``, ``__dir__`` and ``__all__``.

    Arguments:
        package: its name, ``__name__``.
        file: its source, ``__file__``; absolute imports ``from a.b import c`` under ``if TYPE_CHECKING:``.

    Returns:
        The two functions of PEP 562, and the offered names in order.
    """
    homes = _homes(Path(file).read_text(encoding="utf-8"))

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home = homes[name]
        return import_module(f"{package}.{name}") if home == package else getattr(import_module(home), name)

    return get, lambda: sorted({*vars(import_module(package)), *homes}), sorted(homes)


def _homes(source: str) -> dict[str, str]:
    """Module of each name that is imported for type checkers alone."""
    blocks = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {
        alias.asname or alias.name: line.module
        for block in blocks
        for line in block.body
        if isinstance(line, ast.ImportFrom) and line.module
        for alias in line.names
    }
