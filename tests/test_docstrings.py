"""Public docstrings give arguments and what comes back wherever there is more than one argument."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tools.reference import documented, modules


def public(module: ModuleType) -> Iterator[tuple[str, Any, list[str]]]:
    """Name, function and every docstring that applies (its own, and those of the bases it overrides) of each
    public function and method that is defined in ``module``."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value, [value.__doc__ or ""]
        if inspect.isclass(value):
            for key, member in vars(value).items():
                function = getattr(member, "__func__", member)
                if not key.startswith("_") and inspect.isfunction(function):
                    docs = [getattr(vars(base).get(key), "__doc__", None) or "" for base in value.__mro__]
                    yield f"{name}.{key}", function, docs


def lacking(package: str) -> list[str]:
    """What lacks a block, by name."""
    rows = []
    for dotted in modules(package):
        for name, function, docs in public(importlib.import_module(dotted)):
            signature = inspect.signature(function)
            arguments = [p for p in signature.parameters if p not in ("self", "cls")]
            blocks = [["Arguments:"], ["Returns:", "Yields:"]]
            if len(arguments) < 2:
                continue
            if signature.return_annotation in (None, "None", "NoReturn", "Never"):
                blocks.pop()
            rows += [
                f"{dotted}.{name} lacks {block[0]}"
                for block in blocks
                if not any(line.strip() in block for doc in docs for line in doc.splitlines())
            ]
    return rows


@pytest.mark.parametrize("package", documented())
def test_more_than_one_argument_is_described(package):
    assert lacking(package) == []
