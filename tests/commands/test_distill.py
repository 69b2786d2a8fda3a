"""``stillhouse distill`` on a pipeline: its size and precision, what is announced, prompts to look at, and
the settings that are recorded."""

import json

import pytest
import torch
import yaml

from stillhouse.api.models import teacher_of_run
from stillhouse.cli import main
from stillhouse.io.pipelines.tiny import build
from stillhouse.opening import load


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    build("sd", folder / "sd")
    (folder / "prompts.txt").write_text("a red circle\na blue square\na photo of a cat\n")
    return folder


def run(*words):
    return main(["distill", *(str(word) for word in words)])


def test_a_run_states_what_it_will_do_and_does_it(place, capfd):
    out = place / "run"
    words = ("dmd2", "--teacher", place / "sd", "--data", place / "prompts.txt", "--gan-weight", 0)
    sizes = ("--height", 32, "--width", 48, "--dtype", "bf16", "--first-time", 0.4)
    how = ("--lora", 4, "--iterations", 2, "--batch", 2, "--validation-prompts", "a cat", "a red dog")
    assert run(*words, *sizes, *how, "--lr", "fake=0.01", "--out", out) == 0
    shown, stated = capfd.readouterr()
    assert "pictures of 32 × 48 pixels" in stated and "weights in bf16" in stated
    assert "adapter of rank 4, alpha 0.5" in stated and "at 5e-05" in stated and "at 0.01" in stated
    assert "1 process on" in stated and str(out) in stated and "in fp32" in stated
    assert "dmd2 for StableDiffusion, LoRA of rank 4" in stated and "source: tianweiy/DMD2" in stated
    assert "student 4, fake 1" in shown  # its sample, two guided predictions, the fake's; and its own

    noted = yaml.safe_load((out / "run.yaml").read_text())
    assert (noted["height"], noted["width"], noted["dtype"]) == (32, 48, "bf16")
    assert noted["run"]["lr"] == {"student": 5e-5, "fake": 0.01} and noted["run"]["optimiser"] == "adamw"
    assert noted["options"]["gan_weight"] == 0 and noted["options"]["guidance"] == 1.75
    assert noted["settings"].startswith("dmd2 for StableDiffusion")
    model = load(out / "model")
    assert model.shape == (4, 4, 6) and next(model.denoiser.parameters()).dtype == torch.bfloat16
    names = sorted(path.name for path in (out / "validation").iterdir())
    assert names == ["prompts.txt", "step-00000001.png", "step-00000002.png"]

    for dtype, opened in (
        (torch.bfloat16, teacher_of_run(noted, None)),
        (torch.float32, teacher_of_run(noted, None, dtype="fp32")),
    ):  # what the product is looked at beside
        assert opened.shape == (4, 4, 6) and next(opened.denoiser.parameters()).dtype == dtype
    words = ("-n", 8, "--teacher-steps", 1, "--dtype", "fp32", "--prompts", place / "prompts.txt", "--json")
    assert main(["evaluate", str(out), *(str(word) for word in words)]) == 0
    assert json.loads(capfd.readouterr().out)["n"] == 8

    assert run("--resume", out, "--quiet") == 0
    assert yaml.safe_load((out / "run.yaml").read_text()) == noted


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--teacher", "mixture", "--dtype", "bf16"), "is no Diffusers pipeline, which alone takes a dtype"),
        (("--world", "mixture", "--teacher", "exact", "--height", "8"), "takes a height"),
        (("--teacher", "{place}/sd", "--height", "20"), "multiple of"),
        (("--teacher", "mixture", "--validation-prompts", "a cat"), "takes no prompts"),
    ],
)
def test_what_does_not_fit_is_one_sentence(place, capsys, words, sentence):
    filled = [word.format(place=place) for word in words]
    assert run("swiftbrush", *filled, "--iterations", 1, "--out", place / "refused") == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not (place / "refused").exists()
