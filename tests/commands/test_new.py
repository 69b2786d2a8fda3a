"""``stillhouse new``: what it writes passes its contract suite and its check as it stands."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.cli import main
from stillhouse.systems.registry import KINDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and of the suites, with one new system of each kind in it."""
    root = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "stillhouse", root / "stillhouse", ignore=ignore)
    (root / "tests" / "systems").mkdir(parents=True)
    for file in [f for kind in ("*contract*.py", "*oracle*.py") for f in (ROOT / "tests/systems").glob(kind)]:
        shutil.copy(file, root / "tests" / "systems")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "docs").mkdir()
    for kind in KINDS:
        assert main(["new", f"made_{kind}", "--family", "my-family", "--kind", kind, "--dir", str(root)]) == 0
    return root


def inside(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    where = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=copy, env=where, text=True, capture_output=True)


def test_what_it_writes_passes_its_contract(copy: Path) -> None:
    done = inside(copy, "-m", "pytest", "-q", "tests/systems", "-k", "made_")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


def test_what_it_writes_is_listed_and_its_checks_hold_and_fail(copy: Path) -> None:
    shown = inside(copy, "-m", "stillhouse", "systems", "--family", "my-family").stdout
    assert all(f"made_{kind}" in shown for kind in KINDS) and "BROKEN" not in shown
    slugs = [f"made_{kind}" for kind in KINDS]
    for more in ([], ["--ablate"]):
        done = inside(copy, "-m", "stillhouse", "check", *slugs, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "## made_program" in (copy / "docs" / "my-family.md").read_text()


def test_what_it_writes_is_formatted(copy: Path) -> None:
    if shutil.which("ruff") is None and not (Path(sys.executable).parent / "ruff").exists():
        pytest.skip("no ruff here")
    ruff = shutil.which("ruff") or str(Path(sys.executable).parent / "ruff")
    files = [str(p) for p in copy.glob("*/*/my_family/*.py")]
    assert len(files) == 12
    for words in (["format", "--check"], ["check"]):
        done = subprocess.run([ruff, *words, *files], cwd=copy, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dmd2", "--family", "other"], "There is a system 'dmd2' already: stillhouse/systems/distribution"),
        (["Bad-Name", "--family", "other"], "small letters, digits and underscores, not 'Bad-Name'"),
        (["class", "--family", "other"], "not 'class'"),
        (["fine", "--family", "../up"], "name of a family"),
        (["fine", "--family", "other", "--kind", "thing"], "invalid choice: 'thing'"),
    ],
)
def test_it_refuses_names_that_are_taken_or_invalid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "stillhouse" / "systems").mkdir(parents=True)
    assert main(["new", *words, "--dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.py"))


def test_it_refuses_a_folder_that_is_no_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "fine", "--family", "other", "--dir", str(tmp_path)]) == 2
    assert "is no checkout" in capsys.readouterr().err


def test_names_are_imported_from_where_they_are_defined(copy: Path) -> None:
    """As `make lint` wants it of every file: a name that another module lends is refused."""
    seen = 0
    for file in [*copy.glob("stillhouse/systems/*/made_*.py"), *copy.glob("stillhouse/checks/*/made_*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stillhouse."):
                source = ast.parse((copy / f"{node.module.replace('.', '/')}.py").read_text())
                defined = {n.name for n in source.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
                assert {alias.name for alias in node.names} <= defined, (file.name, node.module)
                seen += 1
    assert seen > 20
