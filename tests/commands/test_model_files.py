"""The command line with files that people have: LoRAs with their base, checkpoints with a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

from stillhouse.adapters import adapted
from stillhouse.cli import main
from stillhouse.io.pipelines.tiny import build
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    build("sd", folder / "sd")
    teacher = load(folder / "sd")
    own = adapted(teacher.denoiser, 2).copy()
    with torch.no_grad():
        for p in own.parameters():
            p += 0.1
    student = Model(
        own,
        teacher.shape,
        samplings={2: Sampling([1.0, 0.5, 0.0])},
        text=teacher.text,
        pipeline=teacher.pipeline,
    )
    student.codec = teacher.codec
    student.save_pretrained(folder / "turbo", form="lora")
    network = DiffusionPipeline.from_pretrained(folder / "sd").unet.state_dict()
    save_file({**network, "v_pred": torch.empty(0)}, folder / "unet.safetensors")
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize(
    "lora", ["turbo", "turbo/kohya.safetensors", "turbo/pytorch_lora_weights.safetensors"]
)
def test_a_lora_is_sampled_on_its_base(
    lora: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "one.png"
    words = ("sample", place / lora, "--prompt", "a red circle", "-n", 1, "--out", out)
    assert run(*words) == 2 and "give the pipeline it was trained on" in capsys.readouterr().err
    assert run(*words, "--base", place / "sd") == 0
    assert "in 2 step(s)" in capsys.readouterr().out and out.is_file()
    assert run("sample", place / "sd", "--base", place / "sd") == 2
    assert "only a LoRA takes a base" in capsys.readouterr().err


def test_a_checkpoint_becomes_a_folder_for_every_command(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file, config = place / "unet.safetensors", ("--config", place / "sd")
    assert run("sample", file) == 2 and "--config" in capsys.readouterr().err
    assert run("inspect", file, *config) == 0
    told = capsys.readouterr().out
    assert "predicts   v" in told and "its key v_pred" in told
    assert run("inspect", file, *config, "--prediction", "eps", "--zero-snr") == 0
    assert "predicts   eps" in (told := capsys.readouterr().out) and "as given" in told
    assert run("export", file, *config, "--to", "diffusers", "--out", tmp_path / "made") == 0
    assert "StableDiffusionPipeline" in capsys.readouterr().out and "its key v_pred" in caplog.text
    made = DiffusionPipeline.from_pretrained(tmp_path / "made")
    assert made.scheduler.config.prediction_type == "v_prediction"
    wanted = DiffusionPipeline.from_pretrained(place / "sd").unet.state_dict()
    assert all(torch.equal(w, wanted[name]) for name, w in made.unet.state_dict().items())
    assert run("export", file, *config, "--to", "diffusers", "--out", tmp_path / "made") == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_lora_becomes_one_with_its_base(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = place / "turbo" / "kohya.safetensors"
    to = ("--to", "diffusers", "--out", tmp_path / "fused")
    assert run("export", lora, "--base", place / "sd", *to) == 2  # a student, which is a folder already
    assert "saved as a pipeline already" in capsys.readouterr().err
    from safetensors.torch import load_file

    save_file(load_file(lora), tmp_path / "anybodys.safetensors")
    assert run("export", tmp_path / "anybodys.safetensors", "--base", place / "sd", *to) == 0
    plain, fused = (
        DiffusionPipeline.from_pretrained(f).unet.state_dict() for f in (place / "sd", tmp_path / "fused")
    )
    assert plain.keys() == fused.keys() and any(not torch.equal(w, fused[name]) for name, w in plain.items())
