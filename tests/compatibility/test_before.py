"""What the version before wrote is read: a saved student of each family, and a run that was stopped half way.

The folders beside this file were written by commit 3889369, before sampling became legs and names changed.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stillhouse import load
from stillhouse.api.runs import distill
from stillhouse.core.conditions import restored
from stillhouse.io.pipelines import tiny

HERE = Path(__file__).parent
STUDENTS = sorted(folder.name for folder in (HERE / "students").iterdir())


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_of_before_samples_the_same_bits(name, tmp_path):
    folder = HERE / "students" / name
    expected = load_file(folder / "expected.safetensors")
    if name == "pipeline-lora":
        student = load(folder, base=tiny.build("sd", tmp_path / "sd"))
        made = student.sample(2, ["a red circle", "a dog"], seed=7, latents=True)
    else:
        student = load(folder)
        made = student.sample(len(expected["samples"]), restored(expected).get("cond"), seed=7)
    assert torch.equal(made, expected["samples"])


def test_a_run_of_before_goes_on_to_the_same_weights(tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(HERE / "run", run)
    expected = load_file(run / "expected.safetensors")
    (run / "expected.safetensors").unlink()
    options = {"first_time": 0.7, "low": 0.05, "score_t_max": 0.9}  # one of them by its old name
    student = {"width": 16, "depth": 1}
    length = {"iterations": 6, "batch": 32, "save_every": 3, "keep": 2, "grad_accum": 2, "log_every": 1}
    distill(
        "exact",
        "dmd2",
        world="mixture",
        student=student,
        out=run,
        resume=True,
        quiet=True,
        **options,
        **length,
    )
    made = load_file(run / "model" / "model.safetensors")
    assert "'low' is called 'score_t_min' now" in caplog.text and "'keep' is called" in caplog.text
    assert len(made) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(made.values(), expected.values(), strict=True))
