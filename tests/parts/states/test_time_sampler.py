"""Distributions of training times."""

import math

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Flow
from stillhouse.parts.states.time_sampler import (
    TIME_SAMPLERS,
    around,
    at_step,
    log_normal,
    one_of,
    time_sampler,
    uniform,
)


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_no_time_lies_below_that_of_the_process(name):
    t = time_sampler(name, VE(), Draws(4000, "times"))
    assert VE().t_min - 1e-6 <= float(t.min()) and float(t.max()) <= 1


def test_a_logit_normal_is_the_sigmoid_of_a_normal_number():
    expected = torch.sigmoid(Draws(4000, "times").normal())
    assert torch.equal(time_sampler("logit_normal", Flow(), Draws(4000, "times")), expected)


@pytest.mark.parametrize("process", [Flow(), VE()])
def test_shares_of_the_way_from_the_least_time_to_one(process):
    low, u = process.t_min, Draws(100, "times").uniform()
    torch.testing.assert_close(uniform(process, Draws(100, "times")), low + (1 - low) * u)
    between = uniform(process, Draws(100, "times"), 0.25, 0.75)
    torch.testing.assert_close(between, low + (1 - low) * (0.25 + 0.5 * u))


def test_logarithms_of_the_noise_are_normal():
    z = Draws(4000, "times").normal()
    t = log_normal(Flow(), Draws(4000, "times"), 0.5, 0.3)
    torch.testing.assert_close((t / (1 - t)).log(), 0.5 + 0.3 * z, rtol=1e-3, atol=1e-3)
    t = time_sampler("edm", VE(), Draws(4000, "times"))
    inside = t > VE().t_min + 1e-4
    torch.testing.assert_close((80 * t**7).log()[inside], (-1.2 + 1.2 * z)[inside], rtol=1e-3, atol=1e-3)
    assert float(log_normal(Flow(), Draws(10, "times"), 50.0, 0.1).max()) == pytest.approx(1 - 1e-6, abs=1e-7)
    assert float(log_normal(Flow(), Draws(10, "times"), 50.0, 0.1).max()) < 1
    assert float(log_normal(VE(), Draws(10, "times"), -50.0, 0.1).min()) == pytest.approx(VE().t_min)


def test_a_published_step_is_no_time_below_the_least():
    assert at_step(VE(), torch.tensor([0.0, 0.5])).tolist() == pytest.approx([VE().t_min, 0.5])


def test_an_unknown_law_is_named():
    with pytest.raises(StillhouseError, match="time law 'unifrom'.*'uniform'"):
        time_sampler("unifrom", Flow(), Draws(1, "times"))


def test_bumps_around_several_modes():
    p = around(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0]), 6, 0.5)
    weight = [3 * math.exp(-2 * (j - 1) ** 2) + math.exp(-2 * (j - 4) ** 2) for j in range(6)]
    assert p.dtype == torch.float64
    torch.testing.assert_close(p, torch.tensor(weight, dtype=torch.float64) / sum(weight), rtol=1e-6, atol=0)
    wide = around(torch.tensor([0.0]), torch.tensor([1.0]), 3, 2.0)
    torch.testing.assert_close(wide[1] / wide[0], torch.tensor(math.exp(-0.5), dtype=torch.float64))


def test_one_index_for_all_has_its_probability():
    p = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    counts = torch.bincount(torch.tensor([one_of(p, Draws(1, n)) for n in range(2000)]), minlength=4) / 2000
    assert counts[1] == 0 and (counts - p).abs().max() < 0.04
    assert one_of(p * 1e-3, Draws(1, "rounded")) == 3  # a sum below the number drawn


def test_one_index_is_that_of_its_number():
    class Fixed:
        def __init__(self, value):
            self.value = value

        def one_uniform(self):
            return self.value

    p = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    assert [one_of(p, Fixed(u)) for u in (0.0, 0.249, 0.25, 0.749, 0.75, 0.999)] == [0, 0, 1, 1, 2, 2]
