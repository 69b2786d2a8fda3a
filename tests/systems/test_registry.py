"""The registry reads method files and imports none of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

from stillhouse import cli
from stillhouse.checks.runner import run_checks
from stillhouse.core.errors import StillhouseError
from stillhouse.systems import registry as systems
from stillhouse.systems.base import Operation, Program
from stillhouse.systems.registry import citation, class_of, find, get_system, list_systems, read_system
from stillhouse.train.method import Method
from stillhouse.train.needs import equals

METHOD = '''
"""Module."""
from dataclasses import dataclass
from stillhouse.train.method import Method
from stillhouse.train.option import option

@dataclass
class Mine(Method):
    """A Short Title. Somebody & Another,
    2031 (arXiv 3101.12345, algorithm 2). And more.

    Second paragraph (arXiv 9999.99999).
    """
    strength: float = option(1.0, "how much", low=0)
    kind = "method"
    worlds = ("mixture", "digits")
    needs = ("teacher", "data unless strength=0")
'''


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package of methods in the place of ours."""
    root = tmp_path / "stillhouse" / "systems"
    (root / "new_family").mkdir(parents=True)
    monkeypatch.setattr(systems, "PACKAGE", tmp_path / "stillhouse")
    monkeypatch.setattr(systems, "ROOT", root)
    return root / "new_family"


def test_a_new_file_is_known_without_another_edit(tree: Path) -> None:
    (tree / "my_slug.py").write_text(METHOD)
    (tree / "_shared.py").write_text("x = 1\n")
    (system,) = list_systems()
    assert system.config() == {
        "slug": "my_slug",
        "kind": "method",
        "family": "new-family",
        "paper": "A Short Title. Somebody & Another, 2031 (arXiv 3101.12345)",
        "file": "stillhouse/systems/new_family/my_slug.py",
        "worlds": ("mixture", "digits"),
        "needs": ("teacher", "data unless strength=0"),
        "name": "Mine",
        "problem": "",
    }
    assert systems.families() == ["new-family"]


def test_our_own_files_are_all_read_and_found() -> None:
    found = list_systems()
    files = {p.stem for p in systems.ROOT.glob("*/*.py") if p.stem != "__init__"}
    assert {s.slug for s in found} == files
    assert {"progressive", "cm", "ctm", "tbcm", "dmd", "dmd2", "sid", "slimflow"} <= files
    for system in found:
        kind = class_of(system.slug)
        assert issubclass(kind, Method | Operation | Program | BaseEstimator) and kind.__name__ == system.name
        assert "arXiv" in system.paper and system.worlds, system.slug


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from stillhouse.systems.registry import list_systems; list_systems(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_class_without_a_kind_is_a_helper(tree: Path) -> None:
    more = "\n\nclass Base(Method):\n    pass\n\n\nclass _Hidden(Method):\n    kind = 'method'\n"
    (tree / "two.py").write_text(METHOD + more)
    assert read_system(tree / "two.py").name == "Mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class A:\n    pass\n", r"one public class that names its kind, not 0 \(none\)"),
        ("def program():\n    pass\n", r"one public class that names its kind, not 0 \(none\)"),
        ("class A:\n    kind = 'method'\nclass B:\n    kind = 'method'\n", r"not 2 \(A, B\)"),
        ("class A(:\n", "not valid Python.*line 1"),
        ("class A:\n    kind = 'method'\n    worlds = make()\n", "'worlds' of the system A must be written"),
        ("class A:\n    kind = 'method'\n    needs = 'data'\n", "must be a tuple of plain words"),
        ("class A:\n    kind = make()\n", "'kind' of the system A must be written as plain words"),
        ("class A:\n    kind = 'metod'\n", "no kind of system in .* 'metod'; did you mean 'method'"),
        ("class A:\n    kind = 'method'\n    needs = ('dat',)\n", "A need is one of .*, not 'dat'"),
        ("x = '\0'\n", "not valid Python|can't be read"),
    ],
)
def test_a_broken_file_is_one_row_and_takes_nothing_else_down(
    tree: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "good.py").write_text(METHOD)
    (tree / "bad.py").write_text(text)
    bad, good = list_systems()
    assert re.search(message, bad.problem) and good.problem == "" and good.name == "Mine"
    assert "\n" not in bad.problem
    assert cli.main(["systems"]) == 0
    assert "bad            BROKEN: " in capsys.readouterr().out
    assert get_system("good") == good
    with pytest.raises(StillhouseError, match=message):
        get_system("bad")
    with pytest.raises(StillhouseError, match=message):
        find("bad")


def test_a_broken_file_fails_alone_in_check(tree: Path) -> None:
    (tree / "bad.py").write_text("class A(:\n")
    (outcome,) = run_checks(["bad"])
    assert not outcome.as_it_should and "not valid Python" in outcome.claims[0].claim


def test_kinds_are_chosen() -> None:
    assert {s.slug for s in list_systems(kind="estimator")} == {"repeated_sd", "label_noise_sd", "gt_sd"}
    with pytest.raises(StillhouseError, match="no kind of system 'metod'"):
        list_systems(kind="metod")


def test_needs_follow_the_options(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    kind = find(str(tmp_path / "mine.py"))
    assert kind().requires("data") and not kind(strength=0).requires("data")
    assert kind().requires("teacher") and not kind().requires("reward")
    assert equals(True, "true") and equals(0.0, "0") and equals("data", "data") and not equals(1, "one")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(StillhouseError, match="no method 'progresive'; did you mean 'progressive'"):
        find("progresive")
    with pytest.raises(StillhouseError, match="no family 'trajectry'; did you mean 'trajectory'"):
        list_systems("trajectry")
    with pytest.raises(StillhouseError, match="no world of a system 'mixtur'; did you mean 'mixture'"):
        list_systems(world="mixtur")
    assert {s.slug for s in list_systems(world="tables")} == {"repeated_sd", "label_noise_sd", "gt_sd"}
    with pytest.raises(
        StillhouseError,
        match="'gt_sd' is no run but a scikit-learn estimator; .* import GroundTruthDistiller",
    ):
        find("gt_sd")
    assert get_system("dmd2").family == "distribution"
    assert find("DMD2") is find("dmd2")


def test_citation_stops_at_the_number() -> None:
    assert (
        citation("Title. A & B, 2020\n(arXiv 2001.00001). More.") == "Title. A & B, 2020 (arXiv 2001.00001)"
    )
    assert citation("Title, arXiv:2001.00001 and so on") == "Title, arXiv:2001.00001"
    assert citation("No number\nhere.\n\nNext (arXiv 2001.00001).") == "No number here."
    assert citation("") == ""


def test_a_file_from_outside_has_the_same_rights(tmp_path: Path) -> None:
    file = tmp_path / "my_method.py"
    file.write_text(METHOD)
    for name in (f"{file}:Mine", str(file)):
        kind = find(name)
        assert issubclass(kind, Method)
        made = kind(strength=2)  # type: ignore[call-arg]
        assert made.describe() == {"method": "my_method", "options": {"strength": 2}}
        with pytest.raises(StillhouseError, match="at least 0"):
            kind(strength=-1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("more", "name", "told"),
    [
        ("", "gone.py:Mine", "There is no system's file"),
        ("", "m.py:Yours", "no class 'Yours'.*its systems: Mine"),
        ("", "m.py:dataclass", "'dataclass' in .* is not a system"),
        ("class Net:\n    pass\n", "m.py:Net", "is not a system"),
        ("class Other(Method):\n    pass\n", "m.py", r"holds 2 systems \(Mine, Other\)"),
        ("1 / 0\n", "m.py:Mine", "can't be imported: ZeroDivisionError"),
        ("def f(:\n", "m.py:Mine", "can't be imported: SyntaxError"),
    ],
)
def test_a_file_from_outside_that_is_wrong_is_told(tmp_path: Path, more: str, name: str, told: str) -> None:
    (tmp_path / "m.py").write_text(METHOD + more)
    with pytest.raises(StillhouseError, match=told):
        find(str(tmp_path / name))
