"""The exact tangent and the finite difference agree on every network, and with the calculus where that is
known."""

import pytest
import torch

from stillhouse.models import build_model
from stillhouse.parts.targets.tangent import default_step, tangent

NETS = {
    "mlp": ({"name": "mlp", "dim": 3, "width": 32, "classes": 3, "two_time": True}, (4, 3)),
    "unet": (
        {"name": "unet", "channels": [8, 16], "heads": 2, "classes": 3, "two_time": True, "token_dim": 5},
        (4, 1, 16, 16),
    ),
    "dit": (
        {"name": "dit", "dim": 16, "depth": 2, "heads": 2, "classes": 3, "two_time": True, "token_dim": 5},
        (4, 1, 16, 16),
    ),
}


def make(name, dtype=torch.float64):
    config, shape = NETS[name]
    net = build_model(config).to(dtype)
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.1, generator=g)
    x, v = (torch.randn(shape, generator=g, dtype=dtype) for _ in range(2))
    t, s = (torch.rand(4, generator=g, dtype=dtype) for _ in range(2))
    cond = {"label": torch.tensor([0, 1, 2, -1])}
    if name != "mlp":
        cond["tokens"] = torch.randn(4, 2, 5, generator=g, dtype=dtype)
        cond["mask"] = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1]]).bool()
    return (
        net,
        lambda x, t, s: net(x, t, cond, s=s),
        (x, t, s),
        (v, torch.ones_like(t), 0.5 * torch.ones_like(s)),
    )


@pytest.mark.parametrize("name", sorted(NETS))
def test_exact_and_finite_difference_agree(name):
    net, f, inputs, directions = make(name)
    value, exact = tangent(f, inputs, directions)
    same, difference = tangent(f, inputs, directions, exact=False)
    assert torch.allclose(value, f(*inputs), atol=1e-12) and torch.allclose(same, value, atol=1e-12)
    assert exact.abs().mean() > 0.05
    assert (exact - difference).abs().max() < 1e-7 * exact.abs().max()


@pytest.mark.parametrize("name", sorted(NETS))
def test_the_difference_is_good_to_three_digits_in_float32(name):
    _, f, inputs, directions = make(name, torch.float32)
    _, exact = tangent(f, inputs, directions)
    _, difference = tangent(f, inputs, directions, exact=False)
    assert (exact - difference).norm() < 3e-3 * exact.norm()


@pytest.mark.parametrize("exact", [True, False])
def test_a_known_derivative_and_its_gradient(exact):
    a = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    x, t = torch.tensor([0.3, -1.0], dtype=torch.float64), torch.tensor([0.2, 0.7], dtype=torch.float64)
    v, one = torch.tensor([2.0, 0.5], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    value, derivative = tangent(lambda x, t: torch.sin(a * x) * t**2, (x, t), (v, one), exact=exact)
    expected = a * torch.cos(a * x) * v * t**2 + torch.sin(a * x) * 2 * t
    assert torch.allclose(value, torch.sin(a * x) * t**2) and torch.allclose(derivative, expected, atol=1e-9)
    (mine,) = torch.autograd.grad(derivative.sum(), a)
    (its,) = torch.autograd.grad(expected.sum(), a)
    assert abs(float(mine - its)) < 1e-8


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_parameters_get_gradients_through_the_value(name, checkpointing):
    net, f, inputs, directions = make(name)
    net.checkpointing = checkpointing
    value, derivative = tangent(f, inputs, directions)
    weights = [p for n, p in net.named_parameters() if "embed" not in n]
    mine = torch.autograd.grad((value - derivative.detach()).square().sum(), weights)
    its = torch.autograd.grad((f(*inputs) - derivative.detach()).square().sum(), weights)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(mine, its, strict=True))


def test_no_graph_is_built_without_grad_mode():
    _, f, inputs, directions = make("unet")
    with torch.no_grad():
        value, derivative = tangent(f, inputs, directions)
    _, difference = tangent(f, inputs, directions, exact=False)
    assert not value.requires_grad and not derivative.requires_grad
    assert torch.allclose(derivative, difference, atol=1e-6)


def test_the_step_follows_the_coarsest_dtype_and_can_be_chosen():
    x = torch.zeros(2)
    assert abs(default_step((x.double(),)) - 6.06e-6) < 1e-7
    assert abs(default_step((x.double(), x)) - 4.92e-3) < 1e-4
    one = torch.ones(1, dtype=torch.float64)
    # the central difference of x³ is 3x² + h²
    _, coarse = tangent(lambda x: x**3, (one,), (one,), exact=False, step=0.5)
    assert abs(float(coarse) - 3.25) < 1e-12
