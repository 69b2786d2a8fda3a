"""The shipped Diffusers pipeline that draws shapes: as plain Diffusers and as the house see it, and how it is
made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch.nn import functional as F

from stillhouse.api.evaluate import evaluate
from stillhouse.api.runs import data_of
from stillhouse.core.conditions import size
from stillhouse.core.draws import Draws
from stillhouse.metrics.captions import VOCABULARY
from stillhouse.model import Model
from stillhouse.opening import load, shipped
from stillhouse.systems.registry import find
from stillhouse.systems.training.denoising import Denoising
from stillhouse.worlds.base import World, get_world
from tools import shapes_pipeline as made
from tools.teachers import quality

PROMPTS = ["a red circle above a blue square", "a white cross left of a green triangle", "a purple square"]


@pytest.fixture(scope="module")
def world() -> World:
    torch.set_num_threads(1)
    return get_world("shapes")


@pytest.fixture(scope="module")
def model() -> Model:
    return load("shapes-pipeline")


@pytest.fixture(scope="module")
def pipe() -> Any:
    opened = DiffusionPipeline.from_pretrained(made.PLACE, use_safetensors=True, local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    return opened


def test_it_is_shipped_under_its_name_in_five_megabytes(model: Model) -> None:
    assert shipped()["shapes-pipeline"] == made.PLACE
    assert sum(file.stat().st_size for file in made.PLACE.rglob("*") if file.is_file()) <= 5 * 2**20
    assert (model.world, model.shape, model.classes, model.free_steps) == ("shapes", (4, 16, 16), 0, True)
    assert len(model.prompts) == 16 and next(iter(model.samplings)) == made.STEPS


def test_our_sampling_is_the_pipeline_s_own_call(model: Model, pipe: Any) -> None:
    ours = model.sample(3, PROMPTS, steps=8, guidance=3.0, seed=5, latents=True)
    noise = Draws(3, 5, "sample").normal(*model.shape)
    theirs = pipe(
        PROMPTS, num_inference_steps=8, guidance_scale=3.0, latents=noise, output_type="latent"
    ).images
    assert float((ours - theirs).abs().max()) < 1e-3 < 0.1 < float(theirs.std())


def test_every_word_is_a_token_and_told_apart_with_its_place(pipe: Any, world: World) -> None:
    ids = pipe.tokenizer(
        list(world.captions), padding="max_length", max_length=made.LENGTH, return_tensors="pt"
    ).input_ids
    assert all(len(pipe.tokenizer(word).input_ids) == 3 for word in VOCABULARY)
    heard = pipe.encode_prompt(list(world.captions), "cpu", 1, False)[0]
    states = F.pad(heard.reshape(-1, made.WIDTH), (0, 1), value=1.0)
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    learnt, new = order[:6000], order[6000:12000]
    for asked in (ids.reshape(-1), torch.arange(made.LENGTH).repeat(len(ids))):
        linear = torch.linalg.lstsq(states[learnt], F.one_hot(asked[learnt]).float(), driver="gelsd").solution
        assert float(((states[new] @ linear).argmax(1) == asked[new]).double().mean()) > 0.99


def test_it_draws_as_well_as_its_folder_says(model: Model, world: World) -> None:
    recorded = model.info["quick"]
    found = quality(model, world, recorded["n"], recorded["steps"])
    assert found["fidelity"] == pytest.approx(recorded["fidelity"], abs=0.05)
    assert found["fidelity"] > 0.1  # of the 2,328 captions, chance gets none right
    codec = made.codec_quality(model, world, 200)
    assert codec["psnr"] == pytest.approx(model.info["codec"]["psnr"], abs=0.3) and codec["fidelity"] > 0.95


def test_plain_diffusers_in_another_process_draws_what_is_asked(model: Model, world: World) -> None:
    guidance = next(iter(model.samplings.values())).guidance
    found = made.fidelity(made.PLACE, world, n=24, scales=(guidance,), steps=10)
    assert found["train"][f"{guidance:g}"] == pytest.approx(
        model.info["measured"]["train"][f"{guidance:g}"], abs=0.2
    )


def test_its_world_measures_and_feeds_it(model: Model, world: World) -> None:
    rows = evaluate(model, world, n=16, teacher_steps=(2,))["rows"]
    assert [row["steps"] for row in rows] == [2, made.STEPS] and rows[1]["metrics"]["fidelity"] > rows[0][
        "metrics"
    ]["fidelity"]
    data = data_of(None, world, model, Denoising(), 0)
    x, cond = data.rows(0, Draws(4, "rows"))
    assert (
        x is not None
        and x.shape == (4, 4, 16, 16)
        and isinstance(cond, dict)
        and cond["tokens"].shape == (4, made.LENGTH, made.WIDTH)
    )
    assert 0.7 < float(x.std()) < 1.3
    prompts = data_of("none", world, model, find("dmd")(), 0)
    assert prompts.rows(0, Draws(4, "rows"))[0] is None and size(prompts.examples(2)) == 2


def test_how_it_is_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "CODEC_BATCH", 8)
    vae = made.new_pipeline().vae
    images, _ = world.sample_data(64, Draws(64, "look"))

    def error() -> float:
        with torch.no_grad():
            return float(F.l1_loss(vae.decode(vae.encode(images).latent_dist.mode()).sample, images))

    before = error()
    made.train_codec(vae, world, 20, 1)
    with torch.no_grad():
        spread = float(vae.encode(images).latent_dist.mode().std()) * vae.config.scaling_factor
    assert error() < 0.7 * before and 0.8 < spread < 1.25
    kept = {name: weight.clone() for name, weight in vae.encoder.state_dict().items()}
    made._fit(vae, world, 2, "decoder", list(vae.decoder.parameters()))
    assert all(torch.equal(weight, kept[name]) for name, weight in vae.encoder.state_dict().items())
