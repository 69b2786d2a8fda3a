"""The probe of a run: samples of fixed noise, by whatever walks a model."""

import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import Flow
from stillhouse.model import Model
from stillhouse.models import build_model
from stillhouse.samplers.sampling import Leg, Sampling
from stillhouse.train.data import NoData
from stillhouse.train.health import Probe


def test_a_companion_that_walks_a_leg_is_called_and_keeps_its_mode():
    first, second = (Denoiser(build_model({"name": "mlp", "dim": 2, "width": 8}, s), Flow()) for s in (0, 1))
    legs = [Leg([1.0, 0.5]), Leg([0.5, 0.0], network="other")]
    model = Model(first, (2,), samplings={2: Sampling(legs=legs)}, companions={"other": second})
    first.train()
    second.train()
    probe = Probe(model, NoData((2,)), seed=0)
    samples = probe.samples(model)
    assert first.training and second.training
    assert torch.equal(samples, probe.samples(model)) and samples.shape == (probe.count, 2)
