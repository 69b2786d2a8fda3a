"""What the documentation shows works as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def block(page: str, n: int = 0) -> str:
    """The ``n``-th Python block of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)[n]


def test_readme_example_runs(tmp_path, monkeypatch):
    code = block("README.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs/student/model.safetensors").exists()


def test_method_from_scratch_runs_from_outside_the_tree(tmp_path, monkeypatch):
    code = block("docs/write-a-method.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    (tmp_path / "endpoints.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    import stillhouse

    student = stillhouse.distill(
        "mixture", "./endpoints.py:Endpoints", teacher_steps=4, iterations=60, batch=64, quiet=True
    )
    assert student.info["options"] == {"teacher_steps": 4}
    assert student.sample(8).shape == (8, 2)


def test_the_page_of_systems_and_the_readme_s_counts_are_what_the_code_says():
    from stillhouse.systems.registry import families, list_systems, markdown

    assert (ROOT / "docs/systems.md").read_text() == markdown(), (
        "write it anew: stillhouse systems --markdown > docs/systems.md"
    )
    found = re.search(r"<!-- systems -->\n(.*?)<!-- /systems -->", (ROOT / "README.md").read_text(), re.S)
    assert found and found.group(1).startswith(f"{len(list_systems())} systems")
    assert all(f"{family} {len(list_systems(family))}" in found.group(1) for family in families())


@pytest.mark.parametrize(
    "page", ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("*.md")))]
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_examples_run(example, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
