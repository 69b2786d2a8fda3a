"""Write the generated tables anew, ``docs/systems.md`` and the README's count of systems: ``python -m
tools.tables``."""

from __future__ import annotations

import re
from pathlib import Path

from stillhouse.io.weights import atomic_write
from stillhouse.systems.registry import list_systems, markdown

ROOT = Path(__file__).parents[1]
COUNT = re.compile(r"\d+(?= of them stand today)")


def readme(text: str) -> str:
    """The README with the number of systems that stand."""
    return COUNT.sub(str(sum(not system.problem for system in list_systems())), text)


def main() -> None:
    """Write both files where they differ."""
    for path, made in (
        (ROOT / "docs" / "systems.md", markdown()),
        (ROOT / "README.md", readme((ROOT / "README.md").read_text(encoding="utf-8"))),
    ):
        if not path.is_file() or path.read_text(encoding="utf-8") != made:
            atomic_write(path, made.encode())
            print(f"{path.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
