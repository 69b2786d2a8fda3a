"""Teachers made anew from their recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stillhouse.api.options import fields_of, run_fields
from stillhouse.core.errors import StillhouseError
from stillhouse.opening import load, shipped
from stillhouse.systems.training.denoising import Denoising
from stillhouse.worlds.base import get_world
from tools.teachers import make, quality

RECIPE = """
world: {name: mixture, std: 0.4}
network: {width: 16, depth: 1}
process: cosine
kind: v
options: {steps: 4}
run: {iterations: 5, batch: 16}
"""


def test_a_recipe_becomes_a_file_with_its_quality(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    file = make("small", tmp_path, tmp_path / "work", n=64, quiet=True)
    model = load(file)
    assert (
        file == tmp_path / "small.safetensors"
        and list(model.samplings) == [4]
        and model.denoiser.process.name == "cosine"
    )
    assert model.info["recipe"]["run"] == {"iterations": 5, "batch": 16}
    assert model.info["quality"] == quality(model, get_world("mixture", std=0.4), 64)
    before = file.read_bytes()
    assert (
        make("small", tmp_path, tmp_path / "work", n=64, quiet=True).read_bytes() == before
    )  # the finished run is only measured again
    with pytest.raises(StillhouseError, match="did you mean 'small'"):
        make("smal", tmp_path)


def test_a_teacher_of_captions_keeps_its_text_and_is_asked_for_unseen_ones(tmp_path: Path) -> None:
    network = "{channels: [8, 8], patch: 4, attention: 1, heads: 2}"
    run = "{iterations: 2, batch: 4}"
    (tmp_path / "tiny.yaml").write_text(
        f"world: shapes\nnetwork: {network}\noptions: {{steps: 2}}\nrun: {run}\nstore: float16\n"
    )
    file = make("tiny", tmp_path, tmp_path / "work", n=40, quiet=True)
    model, weights = load(file), load_file(file)
    assert (
        model.sample(1, "a red circle above a blue square").shape == (1, 3, 32, 32)
        and len(model.prompts) == 16
    )
    assert set(model.info["held_out"]) == {
        "n",
        "steps",
        "fidelity",
        "shape_fidelity",
        "colour_fidelity",
        "layout_fidelity",
    }
    assert all(w.dtype == torch.float16 for w in weights.values())
    (tmp_path / "tiny.yaml").write_text("world: mixture\nrun: {iterations: 1, batch: 8}\nstore: int4\n")
    with pytest.raises(StillhouseError, match="float32 or float16, not 'int4'"):
        make("tiny", tmp_path, tmp_path / "other", quiet=True)


def test_training_s_options_and_the_run_s_share_no_name() -> None:
    assert set(fields_of(Denoising)).isdisjoint(run_fields(fields_of(Denoising)))
    assert all(not name.startswith("run_") for name in run_fields(fields_of(Denoising)))


@pytest.mark.parametrize("name", sorted(name for name, place in shipped().items() if place.is_file()))
def test_shipped_teachers_are_as_good_as_their_headers_say(name: str) -> None:
    model = load(name)
    recorded, world = model.info["quick"], get_world(model.info["recipe"]["world"])
    found = quality(model, world, recorded["n"], recorded["steps"])
    for (
        metric,
        value,
    ) in recorded.items():  # arithmetic differs a little between machines, and neighbours can change places
        assert found[metric] == pytest.approx(value, rel=0.05, abs=0.02), metric
    assert shipped()[name].stat().st_size <= 4.25e6
    assert {"recipe", "quality"} <= set(model.info) and model.info["quality"]["n"] >= 359
