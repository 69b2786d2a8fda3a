"""The command line with Diffusers folders: a run from a pipeline to a pipeline, and one sentence for each
mistake."""

import json
import shutil

import pytest

from stillhouse.cli import main
from stillhouse.io.pipelines.tiny import build

ADAPTER = """
from stillhouse.io.pipelines.sd import SD

class Mine(SD):
    pipelines = ("MyPipeline",)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    build("sd", folder / "sd")
    (folder / "prompts.txt").write_text("a red circle\na blue square\n\na photo of a cat\n")
    return folder


def run(*words):
    return main([str(w) for w in words])


@pytest.fixture(scope="module")
def turbo(place):
    options = (
        "--gan-weight",
        0,
        "--first-time",
        0.4,
        "--lora",
        2,
        "--iterations",
        2,
        "--batch",
        2,
        "--quiet",
    )
    assert (
        run(
            "distill",
            "dmd2",
            "--teacher",
            place / "sd",
            "--data",
            place / "prompts.txt",
            *options,
            "--out",
            place / "turbo",
        )
        == 0
    )
    return place / "turbo"


def test_the_runs_folder_is_a_pipeline(turbo):
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(turbo)
    picture = pipe(
        "a red circle", num_inference_steps=1, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    assert picture.shape == (1, 3, 64, 64) and bool(torch.isfinite(picture).all())
    assert (turbo / "model" / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_sampled_and_resumed(turbo, capsys):
    assert (
        run("sample", turbo, "--prompt", "a red circle", "--prompt", "a cat", "--out", turbo / "two.png") == 0
    )
    assert (
        "2 samples in 1 step(s), 1 network call(s)" in capsys.readouterr().out
        and (turbo / "two.png").is_file()
    )
    assert run("distill", "--resume", turbo, "--quiet") == 0


def test_evaluated_and_reported_without_a_world(place, turbo, capsys, monkeypatch):
    from stillhouse.io.pipelines import Family

    monkeypatch.setattr(Family, "steps", 3)  # of the teacher's own scheduler: quick
    small = ("-n", 8, "--batch", 4)
    assert run("evaluate", turbo, *small) == 0
    told = capsys.readouterr().out
    assert "paired_latents" in told and "trained on these" in told and f"stillhouse report {turbo}" in told
    assert run("report", turbo) == 0 and "a red circle" in (turbo / "report.html").read_text()
    (place / "held.txt").write_text("a green triangle\na dog\n")
    (turbo / "report.html").unlink()
    capsys.readouterr()
    assert run("evaluate", turbo, *small, "--prompts", place / "held.txt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["world"]["prompts"] == ["a green triangle", "a dog"]
    assert {r["steps"] for r in found["rows"] if r["who"] == "teacher"} == {1, 3}
    assert "trained on" not in " ".join(found["notes"])
    (turbo / "evaluation.safetensors").unlink()
    assert run("report", turbo) == 2 and "evaluate again" in capsys.readouterr().err


def test_a_runs_end_names_what_to_look_at(place, capsys):
    words = ("--gan-weight", 0, "--first-time", 0.4, "--iterations", 1, "--batch", 2, "--lora", 2)
    out = place / "short run"
    teacher, prompts = place / "sd", place / "prompts.txt"
    assert (
        run("distill", "dmd2", "--teacher", teacher, "--data", prompts, *words, "--quiet", "--out", out) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    for command in ("sample", "evaluate", "report"):
        assert any(line.endswith(f"stillhouse {command} '{out}'") for line in lines)


def test_what_is_understood_is_plain_data(place, capsys):
    assert run("inspect", place / "sd", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert "StableDiffusionPipeline" in json.dumps(told) and "lcm" in json.dumps(told)


def test_a_kind_of_ones_own_through_an_adapter(place, capsys):
    shutil.copytree(place / "sd", place / "mine")
    index = place / "mine" / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "MyPipeline"))
    assert run("inspect", place / "mine") == 2
    assert "--adapter" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, pred",
    [
        (("inspect", "{place}/nothing"), "is no Diffusers pipeline"),
        (("distill", "dmd2", "--teacher", "{place}/sd", "--gan-weight", "0"), "give a file of them"),
        (("distill", "dmd2", "--teacher", "{place}/sd", "--data", "{place}/none.txt"), "There is no data"),
        (("distill", "sid", "--teacher", "{place}/sd", "--data", "{place}/empty.txt"), "holds none"),
        (("distill", "sid", "--teacher", "{place}/torn", "--data", "{place}/prompts.txt"), "unet"),
        (("distill", "sid", "--teacher", "{place}/pickled", "--data", "{place}/prompts.txt"), "pickle"),
        (
            ("distill", "lcm", "--teacher", "{place}/sd", "--data", "{place}/prompts.txt"),
            "learns from real data",
        ),
        (("sample", "{turbo}", "--steps", "7"), "not 7"),
        (
            ("evaluate", "{turbo}", "--world", "shapes", "--prompts", "{place}/prompts.txt"),
            "leave --world away",
        ),
        (("evaluate", "{place}/sd", "--prompts", "{place}/prompts.txt"), "nothing to compare"),
        (("evaluate", "{turbo}", "--features", "{place}/none"), "There is no folder"),
        (("sample", "{turbo}", "--labels", "1,2"), "takes no class labels"),
    ],
)
def test_mistakes_are_one_sentence(place, turbo, capsys, words, pred):
    (place / "empty.txt").write_text("\n# nothing\n")
    (place / "nothing").mkdir(exist_ok=True)
    if not (place / "torn").exists():
        shutil.copytree(place / "sd", place / "torn")
        shutil.rmtree(place / "torn" / "unet")
        shutil.copytree(place / "sd", place / "pickled")
        weights = place / "pickled" / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
    filled = [w.format(place=place, turbo=turbo) for w in words]
    out = ["--out", str(place / "refused")] if words[0] == "distill" else []
    capsys.readouterr()
    assert main([*filled, *out]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert pred in told[-1] and "Traceback" not in "".join(told)
    assert not (place / "refused").exists()
