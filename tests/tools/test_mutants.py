"""The slips that the tests are tried with: what is one, what is none, which tests run it, and how it ends."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools.mutants import equivalent
from tools.mutants.__main__ import PATHS, draw, main, score, sources, table
from tools.mutants.code import Code
from tools.mutants.covering import Covered, covering
from tools.mutants.slips import SLIPS, Mutant, mutants

ROOT = Path(__file__).parents[2]


def slips(source: str) -> list[Mutant]:
    return mutants(Code("stillhouse/parts/x.py", source))


def lines(source: str, kind: str | None = None) -> set[str]:
    """The lines that the slips of one kind make of ``source``."""
    return {m.new for m in slips(source) if kind in (None, m.kind)}


@pytest.mark.parametrize(
    "kind, source, expected",
    [
        ("operator", "y = a + b * c\n", {"y = a - b * c", "y = a + b / c"}),
        ("operator", "y = (a) - (  # - no\n  b)\n", {"y = (a) + ( # - no"}),
        ("operator", "y -= a / b\n", {"y += a / b", "y -= a * b"}),
        ("factor", "y = (a + 1) * b\n", {"y = (a + 1)", "y = b"}),
        ("factor", "y = a / b\n", {"y = a"}),
        ("sign", "y = f(-a)\n", {"y = f(a)"}),
        ("sign", "def f(a, b):\n    return a * b\n", {"return -(a * b)"}),
        ("constant", "y = 0.5 * x.clamp(1, 3)\n", {
            "y = 1.0 * x.clamp(1, 3)", "y = 1.5 * x.clamp(1, 3)", "y = 0.5 * x.clamp(2, 3)",
            "y = 0.5 * x.clamp(1, 4)", "y = 0.5 * x.clamp(1, 6)"}),
        ("constant", "y = x.clamp_min(1e-8)\n", {"y = x.clamp_min(1.00000001)"}),
        ("constant", "y = x[0, 1:].sum(1).reshape(-1, 1).mean(dim=2)\n", set()),
        ("comparison", "y = 0 <= a < 1\n", {"y = 0 < a < 1", "y = 0 <= a <= 1"}),
        ("comparison", "y = a == b\n", {"y = a != b"}),
        ("boolean", "y = a and not b\n", {"y = ((a) or (not b))"}),
        ("negation", "y = a if b else c\n", {"y = a if (not (b)) else c"}),
        ("name", "def f(t, s):\n    return g(t)\n", {"return g(s)"}),
        ("name", "def f(t):\n    return g(t)\n", set()),  # there is no s
        ("name", "def f(t):\n    y = g(t)\n    s = t\n    return s\n", {"return t"}),  # nor one yet
        ("name", "def f(real, fake):\n    return real.x\n", {"return fake.x"}),
        ("name", "def f(self):\n    return self.fake(self.teacher)\n", {
            "return self.teacher(self.teacher)", "return self.student(self.teacher)",
            "return self.fake(self.fake)", "return self.fake(self.student)"}),
        ("name", "y = pred.x0\n", {"y = pred.eps"}),
        ("name", "y = p.alpha(t)\n", {"y = p.sigma(t)"}),
        ("gradient", "with torch.no_grad():\n    y = x.detach()\n", {
            'with __import__("contextlib").nullcontext():', "y = x"}),
        ("gradient", "@torch.no_grad()\ndef f():\n    return 1\n", {"@(lambda f: f)"}),
        ("reduction", "y = x.mean(1) + min(a, b) + sum(z)\n", {
            "y = x.sum(1) + min(a, b) + sum(z)", "y = x.mean(1) + max(a, b) + sum(z)"}),
        ("dropped", "y = (a - b).square() + torch.sqrt(c) + d.clamp_min(0) + e**2\n", {
            "y = (a - b) + torch.sqrt(c) + d.clamp_min(0) + e**2",
            "y = (a - b).square() + c + d.clamp_min(0) + e**2",
            "y = (a - b).square() + torch.sqrt(c) + d + e**2",
            "y = (a - b).square() + torch.sqrt(c) + d.clamp_min(0) + e"}),
        ("guidance", "y = Guided(self.teacher, w)\n", {"y = self.teacher", "y = Guided(self.teacher, 1.0)"}),
        ("guidance", "y = jump(net, x, guidance=w)\n", {"y = jump(net, x)"}),
        ("condition", "y = net(x, t, batch.cond, c=cond)\n", {
            "y = net(x, t, None, c=cond)", "y = net(x, t, batch.cond, c=None)"}),
        ("keyword", "def f(a, b=1):\n    return f(a, b=2) + f(b=3, a=a) + f(a=2)\n", {
            "return f(a) + f(b=3, a=a) + f(a=2)", "return f(a, b=2) + f( a=a) + f(a=2)"}),
    ],
)  # fmt: skip
def test_each_kind_of_slip(kind: str, source: str, expected: set[str]) -> None:
    assert lines(source, kind) == expected


def test_sentences_types_and_bounds_stay_as_they_are() -> None:
    source = '''"""A - b."""
import a.b
class A:
    """x * y"""
    weight: float = option(1.0 * 2, "a - b", low=-1)
    def f(self, x: A | 2 = -1) -> B:
        """x < y"""
        require(x, f"{x - 1} is not {-x}")
        batch.log("a", x * 2)
        raise StillhouseError("a" + f"{x + 1}")
    def __repr__(self):
        return 1 * 2
'''
    assert lines(source) == set()
    assert lines("require(a < b, c + d)\n") == {"require(a <= b, c + d)"}


def test_the_rest_of_the_file_stays_to_the_byte_and_every_slip_compiles() -> None:
    source = 'def f(x, x_t):\n    # ü\n    return ("é", x *\n            x_t)\n'
    code = Code("x.py", source)
    made = {m.source(code.data) for m in mutants(code)}
    assert 'def f(x, x_t):\n    # ü\n    return ("é", x /\n            x_t)\n' in made
    for one in made:
        ast.parse(one)
        assert one.startswith('def f(x, x_t):\n    # ü\n    return ("é", ') and one != source
    file = "stillhouse/parts/gaps/score.py"
    code = Code.read(ROOT, file)
    for mutant in mutants(code):
        assert ast.dump(ast.parse(mutant.source(code.data))) != ast.dump(code.tree)
    kinds = {m.kind for name in sources(ROOT, PATHS) for m in mutants(Code.read(ROOT, name))}
    assert kinds == set(SLIPS)  # each kind is made somewhere


def test_a_draw_is_of_its_seed() -> None:
    everything = slips("y = a + b * c - d / e\n")
    assert draw(everything, 3, 0) == draw(everything, 3, 0) != draw(everything, 3, 1)
    assert draw(everything, 1000, 0) == everything


def test_the_tests_of_a_slip_are_those_that_run_its_lines() -> None:
    source = "k = -x\ndef f(a):\n    if a:\n        return a + 1\n    return f(\n        a * 2)\n"
    by = {m.new: m for m in slips(source)}
    file = "stillhouse/parts/x.py"
    tests = {
        "tests/a/test_slow.py::one": Covered(50.0, {file: 1 << 3 | 1 << 4}),
        "tests/a/test_quick.py::one": Covered(1.0, {file: 1 << 3 | 1 << 5}),
        "tests/parts/test_x.py::one": Covered(90.0, {file: 1 << 3 | 1 << 4}),
        "tests/a/test_other.py::one": Covered(0.1, {"stillhouse/parts/y.py": 1 << 4}),
    }
    slow, quick, own, _ = tests
    beside = "tests/parts/test_x.py::made_before"
    tests[beside] = Covered(2.0, {})
    assert covering(by["return a - 1"], tests, 60) == [own, beside, slow]
    assert covering(by["return a - 1"], tests, 10) == [own, beside]
    assert covering(by["a / 2)"], tests, 60) == [quick]
    assert covering(by["if (not (a)):"], tests, 60) == [own, beside, quick, slow]
    assert covering(by["k = x"], tests, 60) == [own, beside, quick, slow]  # whoever runs anything of the file


def test_an_equivalent_slip_is_known_by_its_lines(tmp_path: Path) -> None:
    (mutant,) = (m for m in slips("def f(a):\n    return a < 1\n") if m.kind == "comparison")
    place = tmp_path / "list.toml"
    entry = (
        f'[[mutant]]\nfile = "{mutant.file}"\nfunction = "f"\nold = "return a < 1"\nnew = "return a <= 1"\n'
    )
    place.write_text(entry + 'reason = "a is never 1"\n')
    (known,) = equivalent.read(place)
    assert known.matches(mutant) and not equivalent.stale([known], [mutant])
    (other,) = (m for m in slips("def f(a):\n    return a < 2\n") if m.kind == "comparison")
    assert not known.matches(other) and equivalent.stale([known], [other]) == [known]
    place.write_text(entry)  # no reason
    with pytest.raises(TypeError, match="reason"):
        equivalent.read(place)


def test_the_list_of_equivalent_slips_is_of_slips_that_there_are() -> None:
    entries = equivalent.read(ROOT / equivalent.LIST)
    everything = [
        m
        for file in {e.file for e in entries}
        if (ROOT / file).is_file()
        for m in mutants(Code.read(ROOT, file))
    ]
    assert equivalent.stale(entries, everything) == []
    assert {e.file for e in entries} <= {m.file for m in everything}
    assert all(e.reason for e in entries) and len(set(entries)) == len(entries)


def test_the_score_leaves_equivalent_ones_out() -> None:
    assert score(["killed", "timed out", "live", "not run", "equivalent"]) == 0.5
    assert score(["equivalent"]) == 1
    one = slips("y = a + b\n")[0]
    assert list(table([(one, "killed"), (one, "live"), (one, "equivalent")]))[-1].split() == [
        *("all", "3", "1", "1", "0", "1", "50.0%")
    ]


def test_a_slip_that_a_test_notices_is_killed_and_another_lives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stillhouse").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "stillhouse" / "__init__.py").write_text("")
    before = "def f(a, b):\n    return a + b\n\n\ndef g(a):\n    return -a\n\n\ndef h(a):\n    return -a\n"
    (tmp_path / "stillhouse" / "x.py").write_text(before)
    (tmp_path / "tests" / "test_x.py").write_text(
        "from stillhouse.x import f, g\n\n\ndef test_f():\n    assert f(2, 3) == 5\n\n\n"
        "def test_g():\n    g(1)\n\n\ndef test_broken():\n    assert f(1, 1) == 3\n"
    )
    run_apart(tmp_path)
    out = (tmp_path / "out").read_text()
    assert "stillhouse/x.py:6 sign in g\n  - return -a\n  + return a\n" in out
    assert "stillhouse/x.py:10 sign in h\n  - return -a\n  + return a (no test runs it)\n" in out
    assert "in f" not in out and "all" in out
    assert out.splitlines()[-1].split() == ["all", "4", "0", "2", "0", "2", "50.0%"]
    assert "test_broken" in (tmp_path / "err").read_text()  # left out: it fails as it is
    assert (tmp_path / "stillhouse" / "x.py").read_text() == before
    with pytest.raises(SystemExit):
        main(["no/such/path", "--root", str(tmp_path)])
    assert "no/such/path" in capsys.readouterr().err


def run_apart(root: Path) -> None:
    """The command in a process of its own: it changes where modules are found."""
    import subprocess
    import sys

    words = ["-m", "tools.mutants", "stillhouse", "--tests", "tests", "--all", "--root", str(root)]
    with open(root / "out", "w") as out, open(root / "err", "w") as err:
        ended = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=out, stderr=err, timeout=280)
    assert ended.returncode == 1
