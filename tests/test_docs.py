"""What the documentation shows works as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def block(page: str, n: int = 0) -> str:
    """The ``n``-th Python block of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)[n]


def test_readme_example_runs(tmp_path, monkeypatch):
    code = block("README.md", 1)
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


def test_the_table_of_systems_and_the_readmes_count_are_what_the_code_holds():
    from stillhouse.systems.registry import markdown
    from tools.tables import COUNT, readme

    page, front = ((ROOT / name).read_text() for name in ("docs/systems.md", "README.md"))
    assert page == markdown() and front == readme(front), "write them anew: make format"
    assert len(COUNT.findall(front)) == 1


@pytest.mark.parametrize("number", [0, 3, 16])
def test_a_student_opens_with_what_its_page_names(number, tmp_path):
    """The whole table: python -m tools.opens_with."""
    from stillhouse.io.pipelines import open_pipeline, tiny
    from stillhouse.opening import from_pipeline
    from tools.opens_with import PLACE, ROWS, row

    shown = PLACE.search((ROOT / "docs/choose.md").read_text())[0].splitlines()[2:]
    assert len(shown) == len(ROWS)
    teacher = from_pipeline(open_pipeline(tiny.build("sd", tmp_path / "base")))
    assert row(teacher, *ROWS[number], tmp_path / "made") == shown[number]


@pytest.mark.parametrize(
    ("marker", "contract", "package"),
    [
        ("floors", "Imports point down the floors", "stillhouse."),
        ("core floors", "Imports point down the floors of the core", "stillhouse.core."),
    ],
)
def test_floors_of_the_architecture_are_the_contracts(marker, contract, package):
    page = (ROOT / "docs/architecture.md").read_text()
    listed = re.search(rf"<!-- {marker} -->\n(.*?)\n<!-- /{marker} -->", page, re.S)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["name"] == contract)
    shown = [
        row.removeprefix("- ").replace("`", "").replace(" · ", " | ").replace(", ", " : ")
        for row in listed[1].splitlines()
    ]
    assert shown == [layer.replace(package, "") for layer in layers]


def in_small(code: str) -> str:
    """The code of a page with few iterations and small sizes, at the precision of a CPU."""
    code = re.sub(r"iterations(=|\": )\d+", r"iterations\g<1>8", code)
    code = re.sub(r"batch(=|\": )\d+", r"batch\g<1>4", code)
    code = re.sub(r"\blora=\d+", "lora=2", code)
    return code.replace('precision="bf16"', 'precision="fp32"').replace("n=500", "n=64")


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs/tasks").glob("*.md")))
def test_pages_by_task_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "./my-sd" in (text := (ROOT / "docs/tasks" / page).read_text()):
        from stillhouse.io.pipelines.tiny import build
        from stillhouse.worlds.shapes.world import write_folder

        build("sd", "my-sd")
        write_folder("my-pictures", 8)
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in re.findall(r"<!-- file (\S+) -->\n```python\n(.*?)```", text, re.S):
        (tmp_path / name).write_text(code)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(in_small(code), page, "exec"), names)


def test_pages_name_the_options_of_today():
    from stillhouse.core.spellings import OPTIONS

    old = "|".join(name.replace("_", "-") for name in OPTIONS)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert not re.findall(rf"--(?:{old})(?![\w-])", page.read_text()), page


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += [str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
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
