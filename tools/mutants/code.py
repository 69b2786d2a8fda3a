"""One source file as the slips see it: its syntax tree with exact positions, parents and bound names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
SILENT = {"option", "Settings", "StillhouseError", "unknown", "TypeVar", "cast", "field"}  # no slip inside
LOGS = {"log", "warn", "warning", "info", "debug", "print", "print_line"}
SENTENCES = {"require", "required", "required_type"}  # the first argument is code, the others are sentences
TEXTS = {"__repr__", "__str__"}


def called(node: ast.AST | None) -> str:
    """The last name of what a call calls; empty for anything else."""
    func = node.func if isinstance(node, ast.Call) else None
    return func.id if isinstance(func, ast.Name) else func.attr if isinstance(func, ast.Attribute) else ""


class Code:
    """A file of source. ``file``: its path from the root; ``source``: its text."""

    def __init__(self, file: str, source: str):
        self.file, self.source = file, source
        self.data = source.encode()
        self.tree = ast.parse(source)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self._starts = [0]
        for line in self.data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    @classmethod
    def read(cls, root: Path, file: str) -> Code:
        return cls(file, (root / file).read_text(encoding="utf-8"))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node stands, in bytes; the parentheses around it are none of its own."""
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        end_line, end = node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return self._starts[line - 1] + column, self._starts[end_line - 1] + end

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.data[start:end].decode()

    def atom(self, node: ast.AST) -> str:
        """A node's text, in parentheses unless it binds as closely as a name."""
        close = isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant)
        return self.text(node) if close else f"({self.text(node)})"

    def token(self, before: ast.AST, after: ast.AST, word: str) -> tuple[int, int]:
        """Where the operator ``word`` stands between two nodes, comments left out."""
        start, end = self.span(before)[1], self.span(after)[0]
        gap, at = self.data[start:end], 0
        while at < len(gap):
            if gap[at : at + 1] == b"#":
                at = gap.index(b"\n", at)
            elif gap.startswith(word.encode(), at):
                return start + at, start + at + len(word)
            at += 1
        raise ValueError(f"There is no '{word}' in {gap!r} of {self.file}.")

    def up(self, node: ast.AST) -> Iterator[ast.AST]:
        """What stands around a node, from the inside out."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def statement(self, node: ast.AST) -> ast.AST:
        """The smallest statement around a node, or the node."""
        return next((n for n in (node, *self.up(node)) if isinstance(n, ast.stmt)), node)

    def lines(self, node: ast.AST) -> range:
        """The lines that run when the node does: those of its statement, of a compound one its head; inside
        a lambda its own."""
        statement = self.statement(node)
        for around in self.up(node):
            if around is statement:
                break
            if isinstance(around, ast.Lambda):
                statement = around
                break
        first, last = statement.lineno, statement.end_lineno  # type: ignore[attr-defined]
        body = getattr(statement, "body", None)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):  # a decorator: whatever runs inside
            return range(statement.body[0].lineno, last + 1)
        return range(first, body[0].lineno if isinstance(body, list) and body else last + 1)

    def inside(self, node: ast.AST) -> bool:
        """Whether the node runs within a function, and not when the file is imported."""
        here = node
        for around in self.up(node):
            if isinstance(around, Function):
                return True
            if isinstance(around, ast.stmt) and here in getattr(around, "decorator_list", ()):
                return True
            here = around
        return False

    def function(self, node: ast.AST) -> str:
        """The dotted name of the function or class around a node; empty at the top of a file."""
        named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return ".".join(reversed([n.name for n in (node, *self.up(node)) if isinstance(n, named)]))

    def bound(self, node: ast.AST) -> set[str]:
        """Names that have a value where ``node`` stands: parameters, and what was assigned in lines above."""
        names: set[str] = set()
        for around in self.up(node):
            if isinstance(around, Function):
                names |= self._names(around, node.lineno)  # type: ignore[attr-defined]
        return names

    def _names(self, function: ast.AST, line: int) -> set[str]:
        made = {n.arg for n in ast.walk(function.args) if isinstance(n, ast.arg)}  # type: ignore[attr-defined]
        if not isinstance(function, ast.Lambda):
            made |= {
                n.id
                for n in ast.walk(function)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.lineno < line
            }
        return made

    @cached_property
    def attributes(self) -> set[str]:
        """Names that stand behind ``self.`` anywhere in the file."""
        return {
            n.attr
            for n in ast.walk(self.tree)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
        }

    @cached_property
    def defaults(self) -> set[tuple[str, str]]:
        """Pairs of a function and one of its parameters that has a default, for those of this file."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef):
                args = node.args.posonlyargs + node.args.args
                given = args[len(args) - len(node.args.defaults) :]
                given += [a for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d]
                found |= {(node.name, arg.arg) for arg in given}
        return found

    def nodes(self) -> Iterator[ast.AST]:
        """All nodes that a slip may change: no sentence, annotation, default, option or line of a log."""
        yield from self._walk(self.tree)

    def _walk(self, node: ast.AST) -> Iterator[ast.AST]:
        yield node
        for child in ast.iter_child_nodes(node):
            if not self._silent(node, child):
                yield from self._walk(child)

    def _silent(self, node: ast.AST, child: ast.AST) -> bool:
        if isinstance(child, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
            return True
        if isinstance(child, ast.Constant) and isinstance(child.value, str | bytes):
            return True
        if isinstance(child, ast.Expr) and called(child.value) in LOGS:
            return True
        if called(child) in SILENT or (called(node) in SENTENCES and child is not node.args[0]):  # type: ignore[attr-defined]
            return True
        if isinstance(node, ast.arguments):
            return True
        if child is getattr(node, "annotation", None) or child is getattr(node, "returns", None):
            return True
        if isinstance(child, ast.FunctionDef) and child.name in TEXTS:
            return True
        if child in getattr(node, "decorator_list", ()):
            return "no_grad" not in ast.dump(child) and "inference_mode" not in ast.dump(child)
        return isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
