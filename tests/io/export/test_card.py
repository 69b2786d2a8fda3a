"""Model cards: names of hub models, and what users do with a student beside sampling it."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.adapters import adapted
from stillhouse.io.pipelines import open_pipeline, tiny
from stillhouse.model import Model
from stillhouse.opening import from_pipeline
from stillhouse.samplers.sampling import Sampling

ONE = {1: Sampling([1.0, 0.0], "renoise")}


def student_of(folder: Path, lora: bool = False) -> Model:
    teacher = from_pipeline(open_pipeline(folder))
    denoiser = adapted(teacher.denoiser, 2).copy() if lora else teacher.denoiser
    return replace(
        teacher,
        denoiser=denoiser,
        samplings=ONE,
        free_steps=False,
        info={"method": "dmd2", "teacher": str(folder)},
    )


@pytest.mark.parametrize(
    ("cached", "name"),
    [("models--owner--my--model", "owner/my--model"), ("models--model", "model")],
)
def test_a_snapshot_of_the_hubs_cache_goes_by_the_models_name(tmp_path: Path, cached: str, name: str) -> None:
    snapshot = tmp_path / "hub" / cached / "snapshots" / "0123456789abcdef"
    tiny.build("sd", snapshot)
    folder = student_of(snapshot, lora=True).save_pretrained(tmp_path / "turbo")
    for place in (folder, folder / "lora"):
        text = (place / "README.md").read_text()
        assert "0123456789abcdef" not in text and f"**{name}**" in text
        assert ("base_model: owner/my--model" in text) == ("/" in name)
        assert json.loads((place / "stillhouse.json").read_text())["base_model"] == name
    assert f'from_pretrained("{name}")' in (folder / "lora" / "README.md").read_text()
    assert (
        json.loads((folder / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"] == name
    )


def test_nothing_that_a_card_names_is_markup_or_code(tmp_path: Path) -> None:
    """Names of folders and values of options are anybody's; a page that hubs show must show them as text."""
    place = tiny.build("sd", tmp_path / 'a"b<script>x')
    options = {"note": "<img src=x>|`a`\n## head", "long": "y" * 1000, "[k](http://x)": "*b*"}
    made = student_of(place, lora=True)
    made.info = {**made.info, "method": "`<b>", "options": options, "measured": {"fid": "1 | 2\n3"}}
    folder = made.save_pretrained(tmp_path / 'turbo"); import os; ("')
    for file in (folder / "README.md", folder / "lora" / "README.md"):
        text = file.read_text()
        body, snippet = text.split("---\n", 2)[2], re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        outside = re.sub(r"```.*?```|`[^`]*`", "", body, flags=re.DOTALL)
        assert "<" not in outside and "\n## head" not in body and "y" * 201 not in body
        rows = [re.sub(r"\\.", "", line) for line in body.splitlines() if line.startswith("|")]
        assert rows and all(row.count("|") == 3 for row in rows)
        named = [n.value for n in ast.walk(ast.parse(snippet)) if isinstance(n, ast.Constant)]
        assert 'a"b<script>x' in named or 'turbo"); import os; ("' in named
        assert not any(
            isinstance(n, ast.Import) and n.names[0].name == "os" for n in ast.walk(ast.parse(snippet))
        )


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_controlnet_is_made_as_the_card_has_it(kind: str, tmp_path: Path) -> None:
    """The idle guidance input, which keeps pipelines from evaluating twice, is refused by Diffusers'
    ControlNet; the card's lines take it off."""
    from diffusers import ControlNetModel, DiffusionPipeline

    folder = student_of(tiny.build(kind, tmp_path / kind)).save_pretrained(tmp_path / "turbo")
    pipe = DiffusionPipeline.from_pretrained(folder)
    with pytest.raises(RuntimeError, match="cond_proj"):
        ControlNetModel.from_unet(pipe.unet)
    code = re.search(
        r"## A ControlNet for it.*?```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL
    )
    assert code
    made: dict[str, Any] = {"pipe": pipe}
    exec(code[1], made)
    control, unet = made["control"], pipe.unet
    torch.testing.assert_close(control.time_embedding.linear_1.weight, unet.time_embedding.linear_1.weight)
    assert unet.time_embedding.cond_proj is not None and unet.config.time_cond_proj_dim


def test_transformers_have_no_word_of_a_controlnet(tmp_path: Path) -> None:
    folder = student_of(tiny.build("sd3", tmp_path / "sd3")).save_pretrained(tmp_path / "turbo")
    assert "ControlNet" not in (folder / "README.md").read_text()
