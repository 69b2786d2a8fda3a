"""Jumps of networks of one time and of two."""

import pytest
import torch
from torch import nn

from stillhouse.core.denoiser import Converted, Denoiser
from stillhouse.core.flowmap import ddim_step, jump, predict_x0
from stillhouse.core.schedules import VE, Flow, ScaledLinearVP

X = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
T, S = torch.tensor([0.5, 0.8], dtype=torch.float64), torch.tensor([0.25, 0.4], dtype=torch.float64)
COND, W = torch.tensor([0.9, -0.4]).double(), torch.tensor([2.0, 3.0]).double()


class Net(nn.Module):
    """A sum in which every input can be told from the others."""

    def forward(self, x, t, cond=None, s=None, guidance=None):
        each = 2 * t + sum(
            factor * part for factor, part in ((1, cond), (10, s), (100, guidance)) if part is not None
        )
        return 0.5 * x + each[:, None]


def denoiser(two_time: bool = False, process=None) -> Denoiser:
    return Denoiser(Net(), process or Flow(), "x0", two_time=two_time)


@pytest.mark.parametrize("two_time", [False, True])
@pytest.mark.parametrize("cond", [None, COND])
@pytest.mark.parametrize("guidance", [None, W])
def test_every_input_reaches_the_network(two_time: bool, cond, guidance) -> None:
    model = denoiser(two_time)
    each = 2 * T + (0 if cond is None else cond) + (0 if guidance is None else 100 * guidance)
    at_s = 0.5 * X + (each + (10 * S if two_time else 0))[:, None]
    eps = (X - (1 - T[:, None]) * at_s) / T[:, None]
    landed = (1 - S[:, None]) * at_s + S[:, None] * eps
    torch.testing.assert_close(jump(model, X, T, S, cond, guidance), landed)
    clean = 0.5 * X + each[:, None]  # its second time is 0
    torch.testing.assert_close(predict_x0(model, X, T, cond, guidance), clean)
    pred = model(X, T, cond, s=S, guidance=guidance)
    torch.testing.assert_close(ddim_step(pred, S), landed)
    at_t = 0.5 * X + (each + (10 * T if two_time else 0))[:, None]
    torch.testing.assert_close(model(X, T, cond, guidance=guidance).x0, at_t)


def test_no_second_time_lies_below_that_of_the_process() -> None:
    model = denoiser(True, VE())
    made = model(X, T, s=torch.zeros(2)).x0
    expected = 0.5 * X + (2 * T + 10 * (0.002 / 80) ** (1 / 7))[:, None]
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-6)


def test_a_step_in_another_process() -> None:
    process = ScaledLinearVP()
    pred = denoiser(process=process)(X, T)
    alpha, sigma = process.alpha(S)[:, None], process.sigma(S)[:, None]
    torch.testing.assert_close(ddim_step(pred, S), alpha * pred.x0 + sigma * pred.eps)


@pytest.mark.parametrize("two_time", [False, True])
def test_a_converted_denoiser_hands_everything_on(two_time: bool) -> None:
    """Of a flow on VE: ``t`` has ``sigma = 80 t^7``, and there ``t_flow = sigma / (1 + sigma)``."""
    model = Converted(denoiser(two_time), VE())
    assert model.two_time == two_time
    sigma, end = 80 * T**7, 80 * S**7
    t, s = sigma / (1 + sigma), end / (1 + end)
    each = 2 * t + COND + 100 * W + (10 * s if two_time else 0)
    clean = 0.5 * X / (1 + sigma)[:, None] + each[:, None]
    pred = model(X, T, COND, s=S, guidance=W)
    torch.testing.assert_close(pred.x0, clean)
    torch.testing.assert_close(pred.eps, (X - clean) / sigma[:, None])
    if two_time:
        each = each - 10 * s + 10 * t
        clean = 0.5 * X / (1 + sigma)[:, None] + each[:, None]
        torch.testing.assert_close(model(X, T, COND, guidance=W).x0, clean)
