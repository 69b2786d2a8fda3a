"""Distributions of training times."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import VE, Flow
from stillhouse.parts.states.time_sampler import TIME_SAMPLERS, time_sampler


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_no_time_lies_below_that_of_the_process(name):
    t = time_sampler(name, VE(), Draws(4000, "times"))
    assert VE().t_min - 1e-6 <= float(t.min()) and float(t.max()) <= 1


def test_a_logit_normal_is_the_sigmoid_of_a_normal_number():
    expected = torch.sigmoid(Draws(4000, "times").normal())
    assert torch.equal(time_sampler("logit_normal", Flow(), Draws(4000, "times")), expected)
