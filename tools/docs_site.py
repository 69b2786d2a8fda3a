"""Hooks of the documentation's generator (``mkdocs.yml``): pages that are made while the site is built.

README, CONTRIBUTING, CHANGELOG and the examples become pages as they are, and each package gets a page of the
reference, from its docstrings. Links to other files of the repository are left as plain text: the site
doesn't carry them.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from tools.reference import documented, modules

ROOT = Path(__file__).parent.parent
BORROWED = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def example_page(file: Path) -> str:
    """A page that shows one example: its first line as the title, and the file."""
    title = (ast.get_docstring(ast.parse(file.read_text())) or file.stem).splitlines()[0].rstrip(".:")
    return f"# {title}\n\n`examples/{file.name}`\n\n```python\n{file.read_text().rstrip()}\n```\n"


def on_files(files: Files, config: Any) -> Files:
    """The pages that are not files of ``docs/``."""
    made = {page: (ROOT / source).read_text() for page, source in BORROWED.items()}
    rows = []
    for package in documented():
        names = modules(package)
        made[f"api/{package}.md"] = f"# stillhouse.{package}\n\n" + "\n".join(f"::: {n}\n" for n in names)
        rows.append(f"- [stillhouse.{package}]({package}.md): {len(names)} modules")
    listed = "\n".join(rows)
    made["api/index.md"] = f"# Reference\n\nFrom the docstrings, package by package.\n\n{listed}\n"
    examples = sorted((ROOT / "examples").glob("*.py"))
    made.update({f"examples/{file.stem}.md": example_page(file) for file in examples})
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository lead to the pages that show them, or become plain text."""
    source = BORROWED.get(page.file.src_uri)
    folder = "" if source else posixpath.dirname(page.file.src_uri)
    pages = {source: page for page, source in BORROWED.items()}

    def led(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups()
        # where the link leads, from the root of the repository
        path = posixpath.normpath(posixpath.join("" if source else "docs", folder, target))
        if path.startswith("docs/"):
            wanted = path.removeprefix("docs/")
        elif path.startswith("examples/"):
            wanted = path.removesuffix(".py") + ".md"
        else:
            wanted = pages.get(path, "")
        if page.file.src_uri.startswith("api/"):
            return found[0]
        if not wanted or files.get_file_from_path(wanted) is None:
            return found[0] if path.startswith("docs/") else text
        here = posixpath.relpath(wanted, folder or ".")
        return f"{picture}[{text}]({here}{anchor or ''})"

    return LINK.sub(led, markdown)
