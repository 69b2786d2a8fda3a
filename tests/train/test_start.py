"""A student of a network that predicts the noise starts where there is a picture in what it predicts."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

from stillhouse.api.runs import data_of
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Cosine, Flow, LinearVP, ScaledLinearVP, Trig
from stillhouse.systems.registry import find, list_systems
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.train.start import NOISIEST
from tests.systems.contract_method import contract_of, drawn, small_teacher

# DDPM's plain table (Ho et al., 2020): at its last step alpha is 0.0064, and published students start there
DDPM = ScaledLinearVP(betas=tuple(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist()))
ZERO_SNR = ScaledLinearVP(zero_terminal_snr=True)
SYSTEMS = ["dmd", "dmd2", "onedp", "snoopi", "swiftbrush"]
MOVED = [Flow(), Cosine(), Trig(), ZERO_SNR]


def trained(slug, process, kind="eps", **options):
    contract = dataclasses.replace(contract_of(slug), process=process, kind=kind)
    own = {k: v for k, v in contract.options.items() if k != "first_time"}
    world, teacher = small_teacher(contract)
    method = find(slug)(**own, **options)
    data = data_of(None, world, teacher, method, 0)
    trainer = Trainer(method, teacher, data, Recipe(steps=2, batch=4), quiet=True)
    return method, drawn(trainer, trainer.fit())


@pytest.mark.parametrize("process", [*MOVED, DDPM, LinearVP()], ids=lambda p: p.name)
@pytest.mark.parametrize("slug", SYSTEMS)
def test_by_default_the_first_call_is_where_the_noise_holds_a_picture(slug, process, caplog):
    if slug != "dmd2" and process in (Trig(), ZERO_SNR, LinearVP()):
        pytest.skip("one system shows it for this process")
    with caplog.at_level(logging.WARNING, "stillhouse"):
        method, made = trained(slug, process)
    assert next(iter(method.samplings().values())).times[0] == pytest.approx(method.first_time)
    assert bool(made.isfinite().all() and (made.flatten(1).norm(dim=1) > 1e-3).all())
    if process in MOVED:
        assert made.abs().amax() < 80  # a fresh network's answers, not far from the noise that goes in
        ratio = float(process.ratio(torch.tensor([method.first_time], dtype=torch.float64)))
        assert ratio == pytest.approx(NOISIEST, rel=0.02)
        assert "the first call is at time" in caplog.text
    else:
        assert method.first_time == 1 and "the first call" not in caplog.text


@pytest.mark.parametrize("kind", ["x0", "v", "velocity"])
def test_other_networks_and_other_times_stay(kind):
    assert trained("dmd2", Flow(), kind)[0].first_time == 1
    assert trained("dmd2", Flow(), first_time=0.97)[0].first_time == 0.97


# methods of other processes (tokens, bridges), of students of another kind, and many-step ones; sid starts at
# 0.7
OTHERS = {"sdtt", "ibmd", "tad_sr", "cfd", "slimflow", "denoising", "lora_distill", "sid"}


@pytest.mark.parametrize(
    "slug", [r.slug for r in list_systems() if r.kind == "method" and r.slug not in {*SYSTEMS, *OTHERS}]
)
def test_every_few_step_system_without_that_option_refuses_pure_noise(slug):
    contract = dataclasses.replace(contract_of(slug), process=Flow(), kind="eps")
    world, teacher = small_teacher(contract)
    method = find(slug)(**contract.options | ({"x0_student": False} if slug == "sdxl_lightning" else {}))
    data = data_of(None, world, teacher, method, 0)
    with pytest.raises(StillhouseError, match="Pure noise holds no clean image"):
        Trainer(method, teacher, data, Recipe(steps=8, batch=4), quiet=True)
