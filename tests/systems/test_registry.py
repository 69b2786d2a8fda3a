"""The registry reads method files and imports none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

from stillhouse.core.errors import StillhouseError
from stillhouse.systems import registry as systems
from stillhouse.systems.registry import citation, class_of, find, get_system, list_systems, read_system
from stillhouse.train.method import Method

METHOD = '''
"""Module."""
from dataclasses import dataclass
from stillhouse.train.method import Method, option

@dataclass
class Mine(Method):
    """A Short Title. Somebody & Another,
    2031 (arXiv 3101.12345, algorithm 2). And more.

    Second paragraph (arXiv 9999.99999).
    """
    strength: float = option(1.0, "how much", low=0)
    worlds = ("mixture", "digits")
    needs = ("data",)
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
        "family": "new-family",
        "paper": "A Short Title. Somebody & Another, 2031 (arXiv 3101.12345)",
        "file": "stillhouse/systems/new_family/my_slug.py",
        "worlds": ("mixture", "digits"),
        "needs": ("data",),
        "name": "Mine",
    }
    assert systems.families() == ["new-family"]


def test_our_own_files_are_all_read_and_found() -> None:
    found = list_systems()
    files = {p.stem for p in systems.ROOT.glob("*/*.py") if p.stem != "__init__"}
    assert {s.slug for s in found} == files
    assert {"progressive", "cm", "ctm", "tbcm", "dmd", "dmd2", "sid", "slimflow"} <= files
    for system in found:
        kind = class_of(system.slug)
        assert issubclass(kind, Method | BaseEstimator) and kind.__name__ == system.name
        assert "arXiv" in system.paper and system.worlds, system.slug


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from stillhouse.systems.registry import list_systems; list_systems(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_step_on_the_way_is_not_the_method(tree: Path) -> None:
    more = (
        "\n\nclass Base(Method):\n    pass\n\n\nclass _Hidden(Method):\n    pass\n\n\nclass Helper:\n   "
        " pass\n"
    )
    (tree / "two.py").write_text(METHOD.replace("class Mine(Method)", "class Mine(Base)") + more)
    order = (
        (tree / "two.py")
        .read_text()
        .replace("@dataclass\nclass Mine", "class Base(Method):\n    pass\n\n\n@dataclass\nclass Mine", 1)
    )
    (tree / "two.py").write_text(order)
    assert read_system(tree / "two.py").name == "Mine"


def test_a_class_made_from_a_part_counts_when_it_names_its_worlds(tree: Path) -> None:
    text = (
        "from stillhouse.parts.family import Family\n\nclass Mine(Family):\n    worlds = "
        "('mixture',)\n\nclass Net(Family):\n    pass\n"
    )
    (tree / "part.py").write_text(text)
    assert read_system(tree / "part.py").name == "Mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("class A:\n    pass\n", r"must hold one method class, not 0 \(none\)"),
        ("from x import Method\nclass A(Method):\n    pass\nclass B(Method):\n    pass\n", r"not 2 \(A, B\)"),
        ("class A(:\n", "not valid Python.*line 1"),
        ("from x import Method\nclass A(Method):\n    worlds = make()\n", "must be a tuple of plain words"),
    ],
)
def test_a_file_that_is_no_method_is_told(tree: Path, text: str, told: str) -> None:
    (tree / "bad.py").write_text(text)
    with pytest.raises(StillhouseError, match=told):
        list_systems()


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
        ("", "gone.py:Mine", "There is no method file"),
        ("", "m.py:Yours", "no class 'Yours'.*its methods: Mine"),
        ("", "m.py:dataclass", "'dataclass' in .* is not a Method"),
        ("class Net:\n    pass\n", "m.py:Net", "is not a Method"),
        ("class Other(Method):\n    pass\n", "m.py", r"holds 2 methods \(Mine, Other\)"),
        ("1 / 0\n", "m.py:Mine", "can't be imported: ZeroDivisionError"),
        ("def f(:\n", "m.py:Mine", "can't be imported: SyntaxError"),
    ],
)
def test_a_file_from_outside_that_is_wrong_is_told(tmp_path: Path, more: str, name: str, told: str) -> None:
    (tmp_path / "m.py").write_text(METHOD + more)
    with pytest.raises(StillhouseError, match=told):
        find(str(tmp_path / name))
