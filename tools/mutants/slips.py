"""The slips: each is a function from a node to what may stand in its place.

A new kind is a function ``(node, code) -> changes`` with a name in :data:`SLIPS`; a change is ``(start, end,
new)``, bytes of the file and the text for them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.mutants.code import Code, called

Change = tuple[int, int, str]
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
PAIRS = [
    ("teacher", "fake"),
    ("teacher", "student"),
    ("fake", "student"),
    ("real", "fake"),
    ("t", "s"),
    ("x", "x_t"),
    ("x0", "x_t"),
    ("x0", "eps"),
    ("eps", "velocity"),
    ("alpha", "sigma"),
    ("dalpha", "dsigma"),
]
PLAYERS = {"teacher", "student"}  # attributes that every method has
ALWAYS = {"x0", "eps", "velocity", "alpha", "sigma", "dalpha", "dsigma"}  # attributes of what is no self
DROPPED = {"square", "abs", "sqrt", "exp", "log", "clamp", "clamp_min", "clamp_max", "clip", "nan_to_num"}
GUIDANCE = {"guidance", "scale", "cfg", "guidance_scale", "w"}
CONDITIONS = {"cond", "condition", "c"}
NUMERIC = DROPPED | {"lerp", "full", "full_like", "new_full", "linspace", "min", "max", "pow", "where"}
FLOOR = 1e-3
NO_GRAD = {"no_grad", "inference_mode"}


@dataclass(frozen=True)
class Mutant:
    """One slip in one file. ``lines``: those whose tests cover it; ``inside``: whether it runs in a function;
    ``old`` and ``new``: the lines it stands in, before and after."""

    file: str
    function: str
    kind: str
    line: int
    lines: range
    inside: bool
    start: int
    end: int
    text: str
    old: str
    new: str

    def source(self, data: bytes) -> str:
        """The whole file with the slip in it."""
        return (data[: self.start] + self.text.encode() + data[self.end :]).decode()


def mutants(code: Code) -> list[Mutant]:
    """All slips of one file, each once, in the order of the file."""
    found: dict[Change, Mutant] = {}
    for node in code.nodes():
        for kind, slip in SLIPS.items():
            for change in slip(node, code):
                start, end, new = change
                if change not in found and code.data[start:end].decode() != new:
                    found[change] = _mutant(code, node, kind, change)
    return sorted(found.values(), key=lambda m: (m.start, m.end, m.text))


def _mutant(code: Code, node: ast.AST, kind: str, change: Change) -> Mutant:
    start, end, new = change
    first = code.data.rfind(b"\n", 0, start) + 1
    last = code.data.find(b"\n", end)
    before, after = code.data[first:start].decode(), code.data[end:last].decode()
    old = before + code.data[start:end].decode() + after
    return Mutant(
        code.file,
        code.function(node),
        kind,
        code.data.count(b"\n", 0, start) + 1,
        code.lines(node),
        code.inside(node),
        start,
        end,
        new,
        " ".join(old.split()),
        " ".join((before + new + after).split()),
    )


def _whole(code: Code, node: ast.AST, new: str) -> Change:
    return (*code.span(node), new)


def _joins(node: ast.BinOp) -> bool:
    """Whether an operator joins strings or lists, and is no arithmetic."""
    kinds = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.ListComp)
    return any(
        isinstance(n, kinds) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        for side in (node.left, node.right)
        for n in ([side, side.left, side.right] if isinstance(side, ast.BinOp) else [side])
    )


def operator(node: ast.AST, code: Code) -> Iterator[Change]:
    """+ and -, * and / for one another."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _joins(node):
        old, new = OPERATORS[type(node.op)]
        yield (*code.token(node.left, node.right, old), new)
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        old, new = OPERATORS[type(node.op)]
        yield (*code.token(node.target, node.value, old), new)


def factor(node: ast.AST, code: Code) -> Iterator[Change]:
    """A factor or a divisor left out."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div) and not _joins(node):
        yield _whole(code, node, code.atom(node.left))
        if isinstance(node.op, ast.Mult):
            yield _whole(code, node, code.atom(node.right))


def sign(node: ast.AST, code: Code) -> Iterator[Change]:
    """A minus left out, or one before a formula."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not (isinstance(node.operand, ast.Constant) and _indexes(node, code)):
            yield _whole(code, node, code.atom(node.operand))
    if isinstance(node, ast.Return | ast.Assign) and isinstance(node.value, ast.BinOp):
        if type(node.value.op) in OPERATORS and not _joins(node.value):
            yield _whole(code, node.value, f"-({code.text(node.value)})")


def constant(node: ast.AST, code: Code) -> Iterator[Change]:
    """A number twice as large, or larger by one; a floor such as 1e-8, whose size says little, by one."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, int | float):
        return
    if isinstance(node.value, bool):
        return
    parent: ast.AST = code.parents[node]
    inner: ast.AST = node
    if isinstance(parent, ast.UnaryOp):
        parent, inner = code.parents[parent], parent
    power = isinstance(parent, ast.BinOp) and not _joins(parent)
    argument = called(parent) in NUMERIC and inner in parent.args  # type: ignore[attr-defined]
    branch = isinstance(parent, ast.IfExp) and inner is not parent.test
    if (power or argument or branch or isinstance(parent, ast.Compare | ast.Return)) and not _indexes(
        node, code
    ):
        yield _whole(code, node, repr(node.value + 1))
        if node.value > FLOOR and node.value != 1:
            yield _whole(code, node, repr(node.value * 2))


def _indexes(node: ast.AST, code: Code) -> bool:
    """Whether a number names a dimension or a place, and no amount."""
    here = node
    for around in code.up(node):
        if isinstance(around, ast.stmt):
            return False
        if isinstance(around, ast.Subscript) and here is around.slice:
            return True
        if isinstance(around, ast.keyword) and around.arg in ("dim", "dims", "start_dim", "end_dim"):
            return True
        if isinstance(around, ast.Call) and here is not around.func and called(around) not in NUMERIC:
            return isinstance(here, ast.Constant | ast.UnaryOp | ast.Starred | ast.List | ast.Tuple)
        here = around
    return False


def comparison(node: ast.AST, code: Code) -> Iterator[Change]:
    """< for <=, > for >=, == for !=, and the other way."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if type(op) in OPERATORS:
                old, new = OPERATORS[type(op)]
                yield (*code.token(left, right, old), new)


def boolean(node: ast.AST, code: Code) -> Iterator[Change]:
    """``and`` for ``or``, and the other way."""
    if isinstance(node, ast.BoolOp):
        word = OPERATORS[type(node.op)][1]
        yield _whole(code, node, "(" + f" {word} ".join(f"({code.text(v)})" for v in node.values) + ")")


def negation(node: ast.AST, code: Code) -> Iterator[Change]:
    """``if not X`` for ``if X``."""
    if isinstance(node, ast.If | ast.IfExp):
        yield _whole(code, node.test, f"(not ({code.text(node.test)}))")


def name(node: ast.AST, code: Code) -> Iterator[Change]:
    """One name for another that is bound beside it: the fake for the teacher, s for t, sigma for alpha."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        bound = code.bound(node)
        if node.id in bound:
            yield from (_whole(code, node, other) for other in _others(node.id) if other in bound)
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        own = isinstance(node.value, ast.Name) and node.value.id == "self"
        known = code.attributes | PLAYERS if own else ALWAYS
        end = code.span(node)[1]
        if node.attr in known:
            start = end - len(node.attr.encode())
            yield from ((start, end, other) for other in _others(node.attr) if other in known)


def _others(word: str) -> list[str]:
    return [b if word == a else a for a, b in PAIRS if word in (a, b)]


def gradient(node: ast.AST, code: Code) -> Iterator[Change]:
    """A missing ``no_grad`` or ``detach``."""
    if called(node) in NO_GRAD:
        parent = code.parents[node]
        if isinstance(parent, ast.withitem):
            yield _whole(code, node, '__import__("contextlib").nullcontext()')
        elif isinstance(parent, ast.FunctionDef):
            yield _whole(code, node, "(lambda f: f)")
    if isinstance(node, ast.Call) and called(node) == "detach" and isinstance(node.func, ast.Attribute):
        yield _whole(code, node, code.atom(node.func.value))


def reduction(node: ast.AST, code: Code) -> Iterator[Change]:
    """A mean for a sum, a maximum for a minimum."""
    swaps = {"mean": "sum", "sum": "mean", "min": "max", "max": "min", "minimum": "maximum"}
    swaps |= {"maximum": "minimum", "amin": "amax", "amax": "amin"}
    if called(node) in swaps:
        func = node.func  # type: ignore[attr-defined]
        if isinstance(func, ast.Name) and func.id == "sum":
            return  # there is no built-in mean
        end = code.span(func)[1]
        yield end - len(called(node)), end, swaps[called(node)]


def dropped(node: ast.AST, code: Code) -> Iterator[Change]:
    """A square, a root, a clamp left out."""
    if isinstance(node, ast.Call) and called(node) in DROPPED and isinstance(node.func, ast.Attribute):
        value = node.func.value
        functional = isinstance(value, ast.Name) and value.id in ("torch", "math", "np", "F")
        if not functional:
            yield _whole(code, node, code.atom(value))
        elif node.args:
            yield _whole(code, node, code.atom(node.args[0]))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        yield _whole(code, node, code.atom(node.left))


def guidance(node: ast.AST, code: Code) -> Iterator[Change]:
    """Guidance left out, or at scale 1."""
    if isinstance(node, ast.Call) and called(node) in ("Guided", "at_scale") and node.args:
        yield _whole(code, node, code.atom(node.args[0]))
        if len(node.args) > 1:
            yield _whole(code, node.args[1], "1.0")
    if isinstance(node, ast.Call):
        for word in node.keywords:
            if word.arg in GUIDANCE:
                yield _without(node, word, code)


def condition(node: ast.AST, code: Code) -> Iterator[Change]:
    """No condition where there is one."""
    if isinstance(node, ast.Call) and called(node) != "isinstance":
        for value in (*node.args, *(word.value for word in node.keywords)):
            name = value.id if isinstance(value, ast.Name) else getattr(value, "attr", "")
            if name in CONDITIONS:
                yield _whole(code, value, "None")


def keyword(node: ast.AST, code: Code) -> Iterator[Change]:
    """An argument left to its default."""
    if isinstance(node, ast.Call):
        for word in node.keywords:
            if (called(node), word.arg) in code.defaults:
                yield _without(node, word, code)


def _without(node: ast.Call, word: ast.keyword, code: Code) -> Change:
    """A call without one of its keyword arguments, and the comma that goes with it."""
    everything = sorted([*node.args, *node.keywords], key=code.span)
    at = everything.index(word)
    start, end = code.span(word)
    if at:
        before = everything[at - 1]
        start = code.token(before, word, ",")[0]
    elif len(everything) > 1:
        end = code.token(word, everything[1], ",")[1]
    return start, end, ""


SLIPS: dict[str, Callable[[ast.AST, Code], Iterator[Change]]] = {
    "operator": operator,
    "factor": factor,
    "sign": sign,
    "constant": constant,
    "comparison": comparison,
    "boolean": boolean,
    "negation": negation,
    "name": name,
    "gradient": gradient,
    "reduction": reduction,
    "dropped": dropped,
    "guidance": guidance,
    "condition": condition,
    "keyword": keyword,
}
