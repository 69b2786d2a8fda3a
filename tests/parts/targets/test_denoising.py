"""The denoising loss, of answers that are written out."""

import pytest
import torch

from stillhouse.core.schedules import VE, Flow
from stillhouse.parts.targets.denoising import denoising_loss
from tests.parts.affine import affine, f64

X, EPS = f64([[1.0, -2.0], [0.5, 3.0]]), f64([[0.3, 0.7], [-1.1, 0.2]])
T, COND = f64([0.25, 0.6]), f64([0.9, -0.4])
X_T = (1 - T[:, None]) * X + T[:, None] * EPS
RAW = 0.5 * X_T + 2 * T[:, None] + COND[:, None]


@pytest.mark.parametrize(
    "kind, target",
    [
        ("x0", X),
        ("eps", EPS),
        ("velocity", EPS - X),
        ("v", (1 - T[:, None]) * EPS - T[:, None] * X),
    ],
)
def test_the_raw_output_is_compared_with_its_target(kind: str, target: torch.Tensor) -> None:
    loss = denoising_loss(affine(0.5, 2.0, kind=kind), X, T, EPS, COND)
    torch.testing.assert_close(loss, ((RAW - target) ** 2).sum() / 4)


def test_a_weight_is_of_the_clean_estimates_error() -> None:
    clean = X_T - T[:, None] * RAW  # of a velocity
    weight = f64([[1 / 0.25], [1 / 0.6]])
    loss = denoising_loss(affine(0.5, 2.0, kind="velocity"), X, T, EPS, COND, lambda at: 1 / at.sigma)
    torch.testing.assert_close(loss, (weight * (clean - X) ** 2).sum() / 4)


def test_edm_has_the_papers_weight() -> None:
    process, sigma = VE(), 80 * 0.25**7
    x_t = X[:1] + sigma * EPS[:1]
    fed = x_t / (sigma**2 + 0.25) ** 0.5
    log = torch.log(f64(sigma)) / 4  # ln(sigma) / 4
    denoised = 0.25 / (sigma**2 + 0.25) * x_t + sigma * 0.5 / (sigma**2 + 0.25) ** 0.5 * (0.5 * fed + 2 * log)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    loss = denoising_loss(affine(0.5, 2.0, process, "edm"), X[:1], T[:1], EPS[:1])
    torch.testing.assert_close(loss, weight * ((denoised - X[:1]) ** 2).sum() / 2)


def test_further_inputs_reach_the_network() -> None:
    class Scaled(torch.nn.Module):
        def forward(self, x, t, cond=None, s=None, guidance=None):
            return s[:, None] * x + guidance[:, None]

    denoiser = affine(0.0, 0.0)
    denoiser.net, denoiser.two_time = Scaled(), True
    s, w = f64([0.1, 0.2]), f64([2.0, 3.0])
    loss = denoising_loss(denoiser, X, T, EPS, s=s, guidance=w)
    torch.testing.assert_close(loss, ((s[:, None] * X_T + w[:, None] - X) ** 2).sum() / 4)
    assert Flow() == denoiser.process
