"""A network that wants its times otherwise than it is called is noticed, and no other."""

import math

import pytest
import torch
from torch import nn

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.prediction import KINDS
from stillhouse.core.schedules import Flow, process_from_config
from stillhouse.models import build_model
from stillhouse.opening import load
from stillhouse.samplers.time_probe import REVERSED, STEPS, misread
from stillhouse.worlds.base import get_world

S = 0.3  # deviation of the data, which are normal and of mean zero


class Ideal(nn.Module):
    """The exact network for normal data, which takes its times as ``wants`` has it."""

    def __init__(self, process: str, kind: str, wants: str = ""):
        super().__init__()
        self.process, self.kind, self.wants = process_from_config(process), kind, wants

    def forward(self, x, t, cond=None):
        t = t / 999 if self.wants == STEPS else 1 - t if self.wants == REVERSED else t
        t = t.clamp(0, 1).double()
        shape = (-1, *[1] * (x.dim() - 1))
        alpha, sigma = (f(t).reshape(shape) for f in (self.process.alpha, self.process.sigma))
        total = (alpha * S) ** 2 + sigma**2
        x0, eps = alpha * S**2 / total * x, sigma / total * x
        out = {"eps": eps, "velocity": eps - x0, "v": alpha * eps - sigma * x0}[self.kind]
        return (-out if self.wants == REVERSED and self.kind == "velocity" else out).float()


CASES = [
    ("flow", "velocity"),
    ("cosine", "eps"),
    ("cosine", "v"),
    ("scaled_linear_vp", "eps"),
    ("flow", "eps"),
]


@pytest.mark.parametrize(("process", "kind"), CASES)
@pytest.mark.parametrize("wants", ["", STEPS, REVERSED])
def test_how_it_reads_time_is_found_with_data_and_without(process, kind, wants):
    denoiser = Denoiser(Ideal(process, kind, wants), process_from_config(process), kind)
    data = S * torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert misread(denoiser, (3, 8, 8)) == wants
    assert misread(denoiser, (3, 8, 8), x0=data) == wants
    assert denoiser.calls == 0


def test_it_is_one_line_and_names_the_remedy(caplog):
    load(Ideal("flow", "velocity", STEPS), shape=(2, 4, 4))
    assert (
        len(caplog.records) == 1
        and "999 * t" in caplog.text
        and "Ideal seems to want steps 0 … 999" in caplog.text
    )
    caplog.clear()
    mended = load(
        Ideal("flow", "velocity", STEPS), shape=(2, 4, 4), call=lambda net, x, t, cond: net(x, 999 * t, cond)
    )
    assert not caplog.records
    spread = float(mended.sample(256, steps=16).std())
    assert math.isclose(spread, S, rel_tol=0.1)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_network_that_was_never_trained_is_left_alone(kind, caplog):
    """Nor is one that can't be called without what it wants, nor the modes of its layers."""

    class Fresh(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.SiLU(), nn.Linear(16, 2))

        def forward(self, x, t, cond=None):
            return self.layers(torch.cat([x, t[:, None]], 1))

    if kind in ("logits", "scaled"):
        pytest.skip("of tokens and bridges")
    for seed in range(4):
        torch.manual_seed(seed)
        net = Fresh()
        load(net, shape=(2,), kind=kind)
        assert net.layers[1].training
    load(nn.Bilinear(2, 2, 2), shape=(2,))
    assert not caplog.records


@pytest.mark.parametrize("name", ["mixture", "digits"])
def test_a_trained_network_of_a_world_reads_its_times_as_it_is_called(name):
    teacher, world = load(name), get_world(name)
    x, labels = world.sample_data(8, Draws(8, "probe"))
    for how in ({}, {"x0": x}):
        assert misread(teacher.denoiser, tuple(teacher.shape), labels, **how) == ""


def test_a_network_built_of_ours_under_another_name_of_time():
    """A trained network behind a call that scales its times is found out on its own data."""
    teacher, world = load("mixture"), get_world("mixture")
    inner = teacher.denoiser
    net = build_model(dict(inner.net.config))
    net.load_state_dict(inner.net.state_dict())
    scaled = Denoiser(net, Flow(), inner.kind, call=lambda net, x, t, cond: net(x, t / 999, cond))
    x, labels = world.sample_data(64, Draws(64, "probe"))
    assert misread(scaled, (2,), labels, x0=x) == STEPS
