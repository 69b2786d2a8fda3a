"""Negative prompts of a run: what the teacher is guided away from, in Python, on the command line and in
YAML."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import yaml

import stillhouse
from stillhouse.api.negative import negative_prompt_of, with_negative_prompt
from stillhouse.api.run import Run
from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines import tiny
from stillhouse.parts.video.initialisation import CausalMethod
from stillhouse.systems.registry import find

SMALL = {"iterations": 1, "batch": 2, "quiet": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("negative")
    (root / "prompts.txt").write_text("a red dog\na blue cat\n")
    return tiny.build("sd", root / "sd")


def embeddings(network):
    """The prompt embeddings that a teacher's network is given from now on, row by row."""
    met = []

    def record(module, args, given):
        if module is network:  # copies keep the hook
            met.extend(given["encoder_hidden_states"].float().unbind(0))

    network.register_forward_pre_hook(record, with_kwargs=True)
    return met


@pytest.mark.parametrize(("slug", "options"), [("dmd2", {"gan_weight": 0.0}), ("sid", {})])
def test_the_teacher_is_guided_away_from_the_prompt(slug, options, folder):
    teacher = stillhouse.load(folder)
    met = embeddings(teacher.pipeline.network)
    student = stillhouse.distill(
        teacher,
        slug,
        data=folder.parent / "prompts.txt",
        negative_prompt="blurry",
        guidance=3.0,
        **options,
        **SMALL,
    )
    wanted, empty = teacher.text.encode(["blurry", ""])["tokens"].float()
    assert sum(torch.allclose(row, wanted, atol=1e-5) for row in met) >= 2
    assert not any(torch.allclose(row, empty, atol=1e-5) for row in met)
    assert teacher.denoiser.negative_condition is None and student.denoiser.negative_condition is None


def test_the_command_line_keeps_it_in_the_runs_yaml(folder, tmp_path):
    words = ["distill", "dmd2", "--teacher", str(folder), "--data", str(folder.parent / "prompts.txt")]
    words += ["--guidance", "3", "--gan-weight", "0", "--iterations", "1", "--batch", "2", "--quiet"]
    assert main([*words, "--negative-prompt", "blurry, dark", "--out", str(tmp_path / "run")]) == 0
    entries = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert entries["negative_prompt"] == "blurry, dark"
    assert Run.from_yaml(tmp_path / "run").negative_prompt == "blurry, dark"
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(entries))
    assert main(["distill", "--config", str(again), "--out", str(tmp_path / "again")]) == 0
    assert Run.from_yaml(tmp_path / "again").negative_prompt == "blurry, dark"


def test_a_prompt_without_an_effect_is_refused(folder, tmp_path):
    def tried(teacher, slug, **options):
        out = tmp_path / "out"
        try:
            stillhouse.distill(teacher, slug, negative_prompt="blurry", out=out, **options, **SMALL)
        finally:
            assert not out.exists()

    prompts = folder.parent / "prompts.txt"
    with pytest.raises(StillhouseError, match="CTM never guides its teacher"):
        tried(folder, "ctm", data=prompts)
    with pytest.raises(StillhouseError, match="the guidance of DMD2 is 1, none"):
        tried(folder, "dmd2", data=prompts, gan_weight=0.0, guidance=1.0)
    with pytest.raises(StillhouseError, match="takes no prompts"):
        tried("mnist", "dmd2", guidance=2.0, gan_weight=0.0)
    flux = stillhouse.load(tiny.build("flux", tmp_path / "flux"), height=64, width=64)
    with pytest.raises(StillhouseError, match="takes the guidance scale as an input"):
        tried(flux, "dmd2", data=prompts, guidance=4.0, gan_weight=0.0)


def test_an_operation_searches_under_it_and_keeps_none(folder):
    prompts = folder.parent / "prompts.txt"
    teacher = stillhouse.load(folder)
    met = embeddings(teacher.pipeline.network)
    how = {"data": prompts, "negative_prompt": "blurry", "quiet": True}
    found = stillhouse.distill(teacher, "oss", steps=1, grid_steps=2, searched=2, **how)
    wanted = teacher.text.encode(["blurry"])["tokens"][0].float()
    assert sum(torch.allclose(row, wanted, atol=1e-5) for row in met) >= 2
    assert found.denoiser.negative_condition is None
    with pytest.raises(StillhouseError, match="no file keeps a negative prompt"):
        stillhouse.distill(teacher, "distillation_pp", student=found, **how)


def test_text_to_video_pipelines_have_a_fixed_one_under_causal_methods(folder):
    clips = SimpleNamespace(
        pipeline=object(), text=object(), form="video", denoiser=stillhouse.load("mixture").denoiser
    )
    pictures = stillhouse.load(folder)
    for slug in ("causvid", "livetalk"):
        guided, plain = find(slug)(guidance=5.0), find(slug)()
        assert negative_prompt_of(guided, clips, None) == CausalMethod.negative_prompt != ""
        assert (
            negative_prompt_of(guided, clips, "grey") == "grey"
            and negative_prompt_of(guided, clips, "") == ""
        )
        assert negative_prompt_of(plain, clips, None) is None
        assert negative_prompt_of(guided, pictures, None) is None
    assert negative_prompt_of(find("dmd2")(guidance=5.0), clips, None) is None
    assert with_negative_prompt(pictures, find("dmd2")(), "") is pictures
