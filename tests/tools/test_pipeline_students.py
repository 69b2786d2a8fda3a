"""The table and the picture of the shipped pipeline's students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stillhouse.api.options import build_recipe
from stillhouse.api.system import split_options, system_class, system_of
from stillhouse.opening import load
from stillhouse.worlds.shapes.world import Shapes
from tools import pipeline_picture, pipeline_students
from tools.pipeline_students import RUN, STUDENTS


@pytest.mark.parametrize("slug", STUDENTS)
def test_settings_are_options_of_their_system(slug: str) -> None:
    own, run = split_options(system_class(slug), {**RUN, **STUDENTS[slug]})
    assert system_of(slug, own).describe()["method"] == slug
    assert build_recipe(run).steps == STUDENTS[slug]["iterations"] and build_recipe(run).lora > 0


def test_a_student_is_trained_once_and_drawn_by_plain_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the world's metrics have tests of their own, and would take most of this one's time
    monkeypatch.setattr(
        Shapes,
        "measure",
        lambda self, x, ids: dict.fromkeys(pipeline_students.METRICS, float(x.std())),
    )
    short = {"iterations": 1, "batch": 2, "lora": 2, "save_every": 0}
    folder = pipeline_students.student_of("lcm", tmp_path, quiet=True, **short)
    made = (folder / "model_index.json").stat().st_mtime_ns
    assert pipeline_students.student_of("lcm", tmp_path, quiet=True) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == made and (folder / "lora").is_dir()
    ways = {steps: steps for steps in sorted(load(folder).samplings)}
    assert 4 in ways
    rows = pipeline_students.rows_of("`lcm`", folder, {4: 4}, 1.0, Shapes(), n=8)
    assert [(row["system"], row["steps"], row["calls"]) for row in rows] == [("`lcm`", 4, 4)]
    assert 0 < float(rows[0]["fidelity"]) == float(rows[0]["Fréchet"]) < 1
    page = tmp_path / "choose.md"
    page.write_text("before\n<!-- pipeline students -->\nold\n<!-- /pipeline students -->\nafter\n")
    pipeline_students.write(rows, page)
    lines = page.read_text().splitlines()
    assert lines[2].startswith("| system | steps | calls | fidelity |")
    assert lines[4].startswith("| `lcm` | 4 | 4 |")
    assert page.read_text().endswith("<!-- /pipeline students -->\nafter\n") and "old" not in page.read_text()


def test_the_picture_has_a_row_a_model(tmp_path: Path) -> None:
    from PIL import Image

    rows = {"teacher": torch.zeros(3, 3, 32, 32), "student": torch.ones(3, 3, 32, 32)}
    file = pipeline_picture.draw(rows, ["a red circle", "a blue cross", "a green square"], tmp_path / "a.png")
    picture = Image.open(file).convert("L")
    column = [picture.getpixel((picture.width * 7 // 8, y)) for y in range(picture.height)]
    grey = [y for y, value in enumerate(column) if value in (127, 128)]
    assert len(grey) > 50 and grey == list(range(grey[0], grey[-1] + 1))  # one row of it, and white below
    assert column[grey[-1] + 20 : -8] and set(column[grey[-1] + 20 : -8]) == {255}
