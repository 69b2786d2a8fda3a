"""The shipped Diffusers pipeline that draws shapes: as plain Diffusers and as the house see it, and how it is
made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from stillhouse.api.evaluate import evaluate
from stillhouse.api.runs import data_of
from stillhouse.core.conditions import size
from stillhouse.core.draws import Draws
from stillhouse.metrics.captions import VOCABULARY
from stillhouse.model import Model
from stillhouse.opening import load, shipped
from stillhouse.systems.registry import find
from stillhouse.systems.training.denoising import Denoising
from stillhouse.worlds.shapes.world import Shapes
from tools.plain import plain_fidelity
from tools.shapes_pipeline import codec, denoiser, making, shipping, text
from tools.teachers import quality

PROMPTS = ["a red circle above a blue square", "a white cross left of a green triangle", "a purple square"]


@pytest.fixture(scope="module")
def world() -> Shapes:
    torch.set_num_threads(1)
    return Shapes()


@pytest.fixture(scope="module")
def model() -> Model:
    return load("shapes-pipeline")


@pytest.fixture(scope="module")
def pipe() -> Any:
    opened = DiffusionPipeline.from_pretrained(shipping.PLACE, use_safetensors=True, local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    return opened


@pytest.fixture(scope="module")
def untrained() -> Any:
    pipe = making.new_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_shipped_under_its_name_in_six_megabytes(model: Model) -> None:
    assert shipped()["shapes-pipeline"] == shipping.PLACE
    assert sum(file.stat().st_size for file in shipping.PLACE.rglob("*") if file.is_file()) <= 6e6
    assert (model.world, model.shape, model.classes, model.free_steps) == ("shapes", (8, 8, 8), 0, True)
    assert len(model.prompts) == 16 and next(iter(model.samplings)) == shipping.STEPS


def test_it_is_worth_distilling(model: Model, world: Shapes) -> None:
    measured, w = model.info["measured"], f"{next(iter(model.samplings.values())).guidance:g}"
    assert measured["train"][w] >= 0.9 and measured["test"][w] >= 0.9
    found = plain_fidelity(shipping.PLACE, world, 24, (float(w),), 10)  # by Diffusers, in another process
    assert found["train"][w] >= 0.75 and found["test"][w] >= 0.75


def test_our_sampling_is_the_pipeline_s_own_call(model: Model, pipe: Any) -> None:
    ours = model.sample(3, PROMPTS, steps=8, guidance=3.0, seed=5, latents=True)
    noise = Draws(3, 5, "sample").normal(*model.shape)
    theirs = pipe(
        PROMPTS, num_inference_steps=8, guidance_scale=3.0, latents=noise, output_type="latent"
    ).images
    assert float((ours - theirs).abs().max()) < 1e-3 < 0.1 < float(theirs.std())


def test_every_word_is_a_token(pipe: Any) -> None:
    assert all(len(pipe.tokenizer(word).input_ids) == 3 for word in VOCABULARY)
    assert text.token_ids(pipe.tokenizer, ["", max(PROMPTS, key=len)]).shape == (2, text.LENGTH)


def test_it_draws_as_well_as_its_folder_says(model: Model, world: Shapes, pipe: Any) -> None:
    recorded = model.info["quick"]
    found = quality(model, world, recorded["n"], recorded["steps"])
    assert found["fidelity"] == pytest.approx(recorded["fidelity"], abs=0.05)
    passed = codec.codec_quality(pipe.vae.float(), world, 200)
    assert passed["psnr"] == pytest.approx(model.info["codec"]["psnr"], abs=0.3) and passed["fidelity"] > 0.97


def test_its_world_measures_and_feeds_it(model: Model, world: Shapes) -> None:
    rows = evaluate(model, world, n=16, teacher_steps=(1,))["rows"]
    assert [row["steps"] for row in rows] == [1, shipping.STEPS]
    assert rows[1]["metrics"]["fidelity"] > rows[0]["metrics"]["fidelity"]
    data = data_of(None, world, model, Denoising(), 0)
    x, cond = data.rows(0, Draws(64, "rows"))
    assert x is not None and x.shape == (64, 8, 8, 8) and isinstance(cond, dict)
    assert cond["tokens"].shape == (64, text.LENGTH, text.WIDTH)
    assert float(x.mean((0, 2, 3)).abs().max()) < 0.3 and 0.7 < float(x.std()) < 1.3
    prompts = data_of("none", world, model, find("dmd")(), 0)
    assert prompts.rows(0, Draws(4, "rows"))[0] is None and size(prompts.examples(2)) == 2


def test_an_autoencoder_learns_and_its_latents_are_standardised(world: Shapes, untrained: Any) -> None:
    vae = codec.new_codec()
    before = codec.codec_quality(vae, world, 32)["psnr"]
    codec.train_codec(vae, world, [(12, 4, 0.0), (8, 4, 4.0)])
    images, _ = world.sample_data(64, Draws(64, "look"))
    with torch.no_grad():
        pred = vae.encode(images).latent_dist
        again, logvar = vae.decode(pred.mode()).sample, pred.logvar
        assert codec.codec_quality(vae, world, 32)["psnr"] > before + 1
        # standardised anew for other pictures: what comes out stays, and so does the ratio of noise to signal
        std = pred.mode().std((0, 2, 3))
        codec.standardise(vae, images)
        new = vae.encode(images).latent_dist
        assert torch.allclose(vae.decode(new.mode()).sample, again, atol=1e-4)
        assert torch.allclose(new.logvar, logvar - 2 * std.log()[:, None, None], atol=1e-4)
        assert torch.allclose(new.mode().mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
        assert torch.allclose(new.mode().std((0, 2, 3)), torch.ones(8), atol=1e-4)


def test_a_text_encoder_learns_to_name_parts(world: Shapes) -> None:
    def named(steps: int) -> float:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return text.train_text(*text.new_text(), world, steps)

    assert named(1) < 0.03 < 0.06 < named(60)  # of held-out captions, with all parts right


def test_branches_of_the_untrained_network_are_nothing(untrained: Any) -> None:
    x, t, cond = torch.randn(2, 8, 8, 8), torch.tensor([5, 900]), torch.randn(2, text.LENGTH, text.WIDTH)
    assert not untrained.unet(x, t, encoder_hidden_states=cond).sample.any()
    others = making.new_pipeline().unet.state_dict()
    assert all(torch.equal(w, others[name]) for name, w in untrained.unet.state_dict().items())


def test_times_are_drawn_where_shapes_are_decided(untrained: Any) -> None:
    law = denoiser.time_law(untrained.scheduler.alphas_cumprod)
    density = law.diff()
    assert float(law[-1]) == pytest.approx(1) and float(density.min()) > 0
    table = untrained.scheduler.alphas_cumprod[1:]
    at = int(density.argmax())
    assert float((table[at] / (1 - table[at])).log()) == pytest.approx(-1.5, abs=0.05)
    assert density[at] / density[0] == pytest.approx(1.3 / 0.3, rel=0.05)
    rates = [denoiser.rate_at(step, 8000) for step in (0, 99, 4000, 7500, 7999)]
    assert rates == pytest.approx([0.01, 1, 1, 0.5, 1 / 1000])


def test_a_run_goes_on_to_the_same_weights(
    world: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser, "BATCH", 4)
    latents, captions = torch.randn(16, 8, 8, 8), torch.arange(16)

    def run() -> denoiser.Run:
        return denoiser.Run(making.new_pipeline(), world, 10)

    whole = run()
    losses = [whole.learn(latents, captions) for _ in range(4)]
    first, second = run(), run()
    assert [first.learn(latents, captions) for _ in range(2)] == losses[:2]
    first.save(tmp_path / "run.pt")
    second.resume(tmp_path / "run.pt")
    assert [second.learn(latents, captions) for _ in range(2)] == losses[2:] and second.step == 4
    pairs = zip(second.average.shadow_params, whole.average.shadow_params, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(whole.parts["text"].state_dict()["final_layer_norm.bias"], torch.zeros(text.WIDTH))
