"""What a family gives beside its agreement with the pipeline."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import stillhouse
from stillhouse.cli import main
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided, takes_guidance
from stillhouse.core.prediction import EDM
from stillhouse.core.schedules import VE, Flow, ScaledLinearVP, process_from_config
from stillhouse.io.pipelines import Family, open_pipeline, register, tiny
from stillhouse.io.pipelines.describe import describe
from stillhouse.io.pipelines.flux import pack, unpack
from stillhouse.io.pipelines.registry import FAMILIES

Built = Callable[[str], Path]
Opened = Callable[[str], Family]


@pytest.mark.parametrize("kind", sorted(tiny.KINDS))
def test_what_is_read(kind: str, opened: Opened) -> None:
    family = opened(kind)
    flows, tables = {"sd3", "flux", "flux_schnell", "sana", "wan", "ltx"}, {"edm", "sdxl_edm"}
    assert isinstance(family.process, Flow if kind in flows else VE if kind in tables else ScaledLinearVP)
    assert process_from_config(json.loads(json.dumps(family.process.config()))) == family.process
    assert sum(p.numel() for p in family.network.parameters()) < 250_000
    times = family.times(3)
    assert (
        all(t > s for t, s in zip(times, times[1:], strict=False))
        and 0 <= times[-1] <= 0.001
        and times[0] <= 1
    )
    pred = json.loads(json.dumps(describe(family)))
    assert pred["latent"]["shape"] == list(family.shape) and pred["pipeline"] == type(family.pipe).__name__


def test_the_table_is_the_schedulers(opened: Opened) -> None:
    for kind in ("sd", "sd2_zero", "pixart"):
        family = opened(kind)
        cumulative = family.pipe.scheduler.alphas_cumprod.double()
        t = family.process.time_of_index(torch.arange(1000, dtype=torch.float64))
        torch.testing.assert_close(family.process.alpha(t), cumulative.sqrt(), atol=1e-6, rtol=0)
    assert float(opened("sd2_zero").process.alpha(torch.ones(1))) == 0


def test_a_table_as_numbers() -> None:
    numbers = tuple((torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).tolist())
    t = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given, formula = ScaledLinearVP(betas=numbers), ScaledLinearVP()
    torch.testing.assert_close(given.alpha(t), formula.alpha(t), atol=1e-12, rtol=0)
    assert process_from_config(json.loads(json.dumps(given.config()))) == given
    with pytest.raises(StillhouseError, match="as many betas"):
        ScaledLinearVP(betas=(0.1, 0.2))


def test_step_of_time_is_whole_on_the_table_and_has_a_slope(opened: Opened) -> None:
    family = opened("sd")
    index = torch.arange(1000)
    t = family.process.time_of_index(index.float())
    assert torch.equal(family.step_of(t), index.float())
    assert family.step_of(torch.tensor([0.10047])).item() == pytest.approx(99.47, abs=1e-3)
    _, slope = torch.func.jvp(family.step_of, (t,), (torch.ones_like(t),))
    assert torch.equal(slope, torch.full_like(t, 1000))


def test_edm_sign_follows_the_prediction(opened: Opened) -> None:
    from diffusers import EDMEulerScheduler

    pipe = opened("edm").pipe
    family = type(opened("edm"))(
        type(pipe)(
            unet=pipe.unet, scheduler=EDMEulerScheduler(prediction_type="v_prediction", sigma_data=1.0)
        )
    )
    assert isinstance(family.kind, EDM) and family.kind.sigma_data == 1.0
    scheduler, x = family.pipe.scheduler, torch.randn(1, *family.shape)
    sigma = torch.tensor([2.0])
    with torch.no_grad():
        raw = family.network(
            scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)
        ).sample
        pred = family.denoiser()(x, family.process.time_of_ratio(sigma.double())).x0
    torch.testing.assert_close(pred, scheduler.precondition_outputs(x, raw, sigma), atol=1e-4, rtol=1e-4)


def test_empty_prompts_are_the_unconditional_ones(opened: Opened) -> None:
    for kind in ("sd", "sdxl", "sana"):
        family = opened(kind)
        told = family.encode(["dog", "", "cat"])
        for name, part in told.items():
            torch.testing.assert_close(part[1], family.empty[name][0])
        assert (told["tokens"][0] - told["tokens"][2]).abs().max() > 1e-4
    assert opened("sdxl").empty["tokens"].abs().max() == 0  # as this pipeline has it
    assert opened("sd").empty["tokens"].abs().max() > 0
    with pytest.raises(StillhouseError, match="takes no prompts"):
        opened("ddpm").encode(["dog"])
    with pytest.raises(StillhouseError, match="list of prompts is empty"):
        opened("sd").encode([])


def test_no_condition_means_the_empty_one(opened: Opened) -> None:
    family = opened("sdxl")
    denoiser, x, t = family.denoiser(), torch.randn(2, *family.shape), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x, t).raw, denoiser(x, t, family.encode(["", ""])).raw)
        dit = opened("dit")
        z = torch.randn(2, *dit.shape)
        null = dit.network(z, timestep=dit.step_of(t), class_labels=torch.tensor([1000, 1000])).sample[:, :4]
        torch.testing.assert_close(dit.denoiser()(z, t).raw, null)


def test_long_prompts_are_told_once(built: Built, caplog: pytest.LogCaptureFixture) -> None:
    family = open_pipeline(built("sd"))
    with caplog.at_level(logging.WARNING, "stillhouse"):
        family.encode(["dog " * 30, "cat", "red " * 20])
        family.encode(["dog " * 30])
    assert [r.getMessage() for r in caplog.records] == [
        "2 of 3 prompts are longer than the 16 tokens that tokenizer takes (the longest has 32); the "
        "rest is cut off."
    ]


def test_copies_share_the_pipeline_and_not_the_weights(opened: Opened) -> None:
    family = opened("sd")
    denoiser = family.denoiser()
    twin = denoiser.copy()
    assert twin.call.__self__ is family and copy.deepcopy(family) is family  # type: ignore[attr-defined]
    cond, x, t = family.encode(["dog"]), torch.randn(1, *family.shape), torch.tensor([0.5])
    twin(x, t, cond).x0.square().mean().backward()
    assert sum(p.grad.abs().sum() for p in twin.net.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in family.network.parameters())


def test_flux_hears_the_scale(opened: Opened) -> None:
    dev, schnell = opened("flux"), opened("flux_schnell")
    assert (
        dev.takes_guidance
        and takes_guidance(dev.denoiser())
        and not schnell.takes_guidance
        and not takes_guidance(schnell.denoiser())
    )
    x, t, cond = torch.randn(2, *dev.shape), torch.tensor([0.5, 0.5]), dev.encode(["dog", "dog"])
    with torch.no_grad():
        asked = lambda w: dev.denoiser()(x, t, cond, guidance=torch.full((2,), w)).raw  # noqa: E731
        torch.testing.assert_close(dev.denoiser()(x, t, cond).raw, asked(3.5))
        assert (asked(1.0) - asked(3.5)).abs().max() > 1e-4
    assert torch.equal(unpack(pack(x), *x.shape[2:]), x)


def test_a_guidance_input_of_a_unet_is_the_lcm_pipelines(built: Built) -> None:
    family = open_pipeline(built("sd"))
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = tiny.unet(time_cond_proj_dim=8).eval()
    parts = {k: v for k, v in family.pipe.components.items() if k not in ("image_encoder",)}
    pipe = LatentConsistencyModelPipeline(
        **{**parts, "unet": network, "scheduler": LCMScheduler.from_config(family.pipe.scheduler.config)},
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    student = type(family)(pipe)
    z = torch.randn(1, *student.shape)
    assert (
        takes_guidance(student.denoiser())
        and student.schedule.solver == "renoise"
        and student.times(1) == [1.0, 0.0]
    )
    pred = student.denoiser()(z, torch.ones(1), student.encode(["dog"]), guidance=torch.tensor([8.0]))
    its = pipe("dog", num_inference_steps=1, guidance_scale=8.0, latents=z, output_type="latent").images
    # LCM's skip is (0.5 / (10 * 999))^2 of the state, far below what we compare to
    torch.testing.assert_close(pred.x0.detach(), its, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sd", "sdxl_edm", "sd3", "sana"])
def test_latents_and_images(kind: str, opened: Opened) -> None:
    family = opened(kind)
    images = torch.rand(2, 3, *family.size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = family.codec.encode(images)  # type: ignore[union-attr]
    assert z.shape == (2, *family.shape) and torch.equal(z, family.latents(images))
    config, vae = family.vae.config, family.vae
    with torch.no_grad():
        raw = vae.encode(images)
        raw = raw.latent_dist.mean if hasattr(raw, "latent_dist") else raw.latent
        if kind == "sdxl_edm":
            mean, std = (
                torch.tensor(config[f"latents_{name}"]).reshape(1, -1, 1, 1) for name in ("mean", "std")
            )
            wanted, back = (raw - mean) / std * config.scaling_factor, z * std / config.scaling_factor + mean
        else:
            shift = config.get("shift_factor") or 0.0
            wanted, back = (raw - shift) * config.scaling_factor, z / config.scaling_factor + shift
        torch.testing.assert_close(z, wanted)
        torch.testing.assert_close(family.images(z), vae.decode(back).sample)


def test_sizes(built: Built) -> None:
    wide = open_pipeline(built("sdxl"), height=64, width=128)
    assert wide.shape == (4, 8, 16) and wide.empty["ids"].tolist() == [[64, 128, 0, 0, 64, 128]]
    with pytest.raises(
        StillhouseError, match="height must be a multiple of 16 pixels for FluxPipeline, not 40"
    ):
        open_pipeline(built("flux"), height=40)
    with pytest.raises(StillhouseError, match=r"takes states \(B, 4, h, w\), not \(1, 3, 8, 8\)"):
        wide.denoiser()(torch.randn(1, 3, 8, 8), torch.ones(1))
    with pytest.raises(StillhouseError, match="multiples of 8 pixels"):
        wide.latents(torch.zeros(1, 3, 60, 64))


def test_a_precision_goes_by_its_name_too(built: Built) -> None:
    family = open_pipeline(built("sd"), dtype="bf16")
    assert {p.dtype for p in family.network.parameters()} == {torch.bfloat16}
    for wrong in ("half", torch.int8, 16):
        with pytest.raises(StillhouseError, match="There is no precision '.*'"):
            open_pipeline(built("sd"), dtype=wrong)  # type: ignore[arg-type]


def test_half_precision(built: Built) -> None:
    family = open_pipeline(built("sdxl"), dtype=torch.bfloat16)
    pred = Guided(family.denoiser(), 3.0)(
        torch.randn(2, *family.shape), torch.tensor([0.4, 1.0]), family.encode(["dog", "cat"])
    )
    assert (
        next(family.network.parameters()).dtype == torch.bfloat16
        and pred.raw.dtype == torch.float32
        and pred.x0.isfinite().all()
    )


def test_load_gives_a_model(built: Built) -> None:
    model = stillhouse.load(built("sd"))
    assert (
        model.free_steps
        and model.conditional
        and model.shape == (4, 8, 8)
        and model.sampling().guidance == 7.5
    )
    mine = model.sample(2, ["a red circle", "dog"], steps=4, guidance=3.0, seed=7, latents=True)
    family = model.pipeline
    assert family is not None and model.codec is not None
    z = Draws(2, 7, "sample").normal(*model.shape)
    its = family.pipe(
        ["a red circle", "dog"], num_inference_steps=4, guidance_scale=3.0, latents=z, output_type="latent"
    ).images
    assert (mine - its).abs().max() < 1e-4
    assert model.sample(1, "dog", steps=2).shape == (1, 3, 64, 64)
    assert stillhouse.load(built("flux"), height=64, width=64).shape == (4, 8, 8)


ADAPTER = """
from stillhouse.io.pipelines import Family

class Mine(Family):
    pipelines = ("DDIMPipeline",)
    def call(self, net, x, t, cond, *, guidance=None, s=None):
        return net(x, self.step_of(t)).sample
"""


def test_an_adapter_from_outside(
    built: Built, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(ADAPTER)
    mine = open_pipeline(built("ddpm"), f"{tmp_path}/mine.py:Mine")
    x, t = torch.randn(1, *mine.shape), torch.tensor([0.5])
    with torch.no_grad():
        torch.testing.assert_close(mine.denoiser()(x, t).x0, opened("ddpm").denoiser()(x, t).x0)
    monkeypatch.delitem(FAMILIES, "DDIMPipeline")
    with pytest.raises(StillhouseError, match="No family reads a DDIMPipeline .* --adapter ./my.py:MyFamily"):
        open_pipeline(built("ddpm"))
    register(type(mine))
    assert type(open_pipeline(built("ddpm"))).__name__ == "Mine"
    for wrong, reason in [
        ("mine.py", "given as"),
        ("gone.py:Mine", "no adapter file"),
        (f"{tmp_path}/mine.py:Yours", "no class Yours"),
    ]:
        with pytest.raises(StillhouseError, match=reason):
            open_pipeline(built("ddpm"), wrong)


def test_inspect(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(built("sdxl"))]) == 0
    shown = capsys.readouterr().out
    for words in (
        "StableDiffusionXLPipeline",
        "UNet2DConditionModel",
        "213,316 parameters",
        "4 × 8 × 8",
        "0.13025",
        "CLIPTextModelWithProjection",
        "dmd2",
    ):
        assert words in shown
    assert main(["inspect", str(built("dit")), "--json"]) == 0
    pred = json.loads(capsys.readouterr().out)
    assert (
        pred["classes"] == 1000
        and pred["guidance"] == {"scale": 4.0, "how": "a second evaluation"}
        and "cm" in pred["methods"]
    )
    assert main(["inspect", str(built("sd").parent)]) == 2
    assert "is no Diffusers pipeline" in capsys.readouterr().err
