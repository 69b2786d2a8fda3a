"""Schedulers that clip and that draw noise: our samples of a pipeline are those of its own steps, and what
methods don't learn of them is stated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from stillhouse.core.draws import Draws
from stillhouse.io.pipelines import Family
from stillhouse.io.pipelines.describe import remarks
from stillhouse.model import pipeline_sampling
from stillhouse.opening import from_pipeline
from stillhouse.samplers.draw import draw_samples

Opened = Callable[[str], Family]
STEPS = 5


@dataclass
class Given(Draws):
    """Draws that hand out a list."""

    noises: Iterator[Tensor] = field(default_factory=lambda: iter(()))

    def __init__(self, noises: list[Tensor]):
        super().__init__(len(noises[0]), 0, "given")
        self.noises = iter(noises)

    def normal_like(self, x: Tensor) -> Tensor:
        return next(self.noises).to(x)


def under(family: Family, name: str, config: dict[str, Any]) -> Family:
    """The family's pipeline with another scheduler."""
    scheduler = getattr(diffusers, name).from_config({**family.pipe.scheduler.config, **config})
    pipe = diffusers.DDPMPipeline(unet=family.network, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return type(family)(pipe)


@torch.no_grad()
def theirs(family: Family, z: Tensor, noises: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The scheduler's own steps."""
    scheduler, left = family.pipe.scheduler, iter(noises)
    if "randn_tensor" in vars(module := __import__(type(scheduler).__module__, fromlist=["x"])):
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: next(left))
    scheduler.set_timesteps(STEPS)
    x = z * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = 3 * family.network(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(out, t, x).prev_sample
    return x


@torch.no_grad()
def ours(family: Family, z: Tensor, noises: list[Tensor]) -> Tensor:
    denoiser, sampling = family.denoiser(), pipeline_sampling(family, STEPS)
    call = denoiser.call
    denoiser.call = lambda net, x, t, cond, **extra: 3 * call(net, x, t, cond, **extra)
    level = family.process.sigma(torch.tensor(sampling.times[0], dtype=torch.float64))
    start = z * float(level if sampling.start is None else sampling.start)
    return draw_samples(denoiser, sampling, family.shape, None, Given(noises), start=start)


DYNAMIC = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5}
MULTI = "DPMSolverMultistepScheduler"


@pytest.mark.parametrize(
    ("name", "config", "noisy", "clips"),
    [
        ("DDIMScheduler", {}, False, False),
        ("DDIMScheduler", {"clip_sample": True}, False, True),
        ("DDIMScheduler", {"clip_sample": True, "clip_sample_range": 0.5}, False, True),
        ("DDIMScheduler", DYNAMIC, False, True),
        ("HeunDiscreteScheduler", {"clip_sample": True, "timestep_spacing": "linspace"}, False, True),
        ("DDPMScheduler", {}, True, False),
        ("DDPMScheduler", {"clip_sample": True}, True, True),
        ("DDPMScheduler", DYNAMIC, True, True),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, True, False),
        (MULTI, {"algorithm_type": "sde-dpmsolver++", "timestep_spacing": "trailing"}, True, False),
        (MULTI, {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, True, False),
        (MULTI, {"solver_order": 1, **DYNAMIC}, False, True),
    ],
)
def test_samples_are_the_schedulers(
    name: str,
    config: dict[str, Any],
    noisy: bool,
    clips: bool,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = under(opened("ddpm"), name, config)
    generator = torch.Generator().manual_seed(3)
    z, *noises = (torch.randn(2, *family.shape, generator=generator) for _ in range(2 * STEPS + 1))
    mine, its = ours(family, z, noises), theirs(family, z, noises, monkeypatch)
    assert (mine - its).abs().max() < 1e-4 * max(1.0, float(its.abs().max()))
    assert (
        family.schedule.exact and family.schedule.stochastic == noisy and bool(family.schedule.hooks) == clips
    )
    if noisy or clips:  # and it would have been another one without
        plain = under(opened("ddpm"), "DDIMScheduler", {})
        assert (ours(plain, z, noises) - its).abs().max() > 1e-2


def test_a_flows_own_noise(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    family = opened("sd3")
    pipe = type(family.pipe)(
        **{
            **family.pipe.components,
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        }
    )
    other = type(family)(pipe)
    assert other.schedule.solver == "renoise" and other.schedule.exact and other.schedule.stochastic


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("DDIMScheduler", {}, []),
        ("DDIMScheduler", {"clip_sample": True}, ["clips clean estimates"]),
        ("DDPMScheduler", {}, ["draws fresh noise"]),
        (
            "DDPMScheduler",
            {"variance_type": "fixed_large"},
            ["solver of Stillhouse's own", "draws fresh noise"],
        ),
        ("KDPM2AncestralDiscreteScheduler", {}, ["solver of Stillhouse's own", "draws fresh noise"]),
        ("PNDMScheduler", {"clip_sample": True}, ["solver of Stillhouse's own"]),  # which never clips
        (MULTI, {"solver_order": 3}, ["solver of Stillhouse's own"]),
    ],
)
def test_what_differs_is_stated_wherever_a_pipeline_is_opened(
    name: str, config: dict[str, Any], words: list[str], opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    family = under(opened("ddpm"), name, config)
    with caplog.at_level(logging.WARNING, "stillhouse"):
        model = from_pipeline(family)
    spoken = [record.getMessage() for record in caplog.records]
    assert len(spoken) == len(words) and all(word in line for word, line in zip(words, spoken, strict=True))
    assert all(line in remarks(family) for line in spoken)
    assert model.sample(1, steps=8).isfinite().all()
