import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.models import build_model


def shaken(**options):
    net, g = build_model({"name": "temporal", **options}), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    return net


@pytest.mark.parametrize("horizon,actions,channels", [(8, 2, (16, 32)), (16, 7, (8, 16, 24)), (3, 1, (8,))])
def test_it_keeps_the_shape_of_any_chunk_and_hears_everything(horizon, actions, channels):
    net = shaken(horizon=horizon, actions=actions, channels=channels, features=5, two_time=True)
    x, t, told = torch.randn(4, horizon, actions), torch.rand(4), {"features": torch.randn(4, 5)}
    out = net(x, t, told, s=t / 2)
    assert out.shape == x.shape
    assert not torch.allclose(out, net(x, t, {"features": -told["features"]}, s=t / 2))
    assert not torch.allclose(out, net(x, 1 - t, told, s=t / 2)) and not torch.allclose(
        out, net(x, t, told, s=t / 3)
    )
    alone = net(x[2:3], t[2:3], {"features": told["features"][2:3]}, s=t[2:3] / 2)
    torch.testing.assert_close(alone[0], out[2], atol=1e-5, rtol=1e-4)


def test_every_action_hears_every_other_one():
    net, t = shaken(horizon=8, channels=(16, 32)), torch.full((1,), 0.5)
    x = torch.randn(1, 8, 2, requires_grad=True)
    grads = [torch.autograd.grad(net(x, t)[0, i].sum(), x)[0].abs().sum((0, 2)) for i in (0, 7)]
    assert all(bool((g > 0).all()) for g in grads)
    assert net.config["name"] == "temporal" and net.taps(["mid"], x, t)[1]["mid"].shape == (
        1,
        net.middle_channels,
        4,
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(StillhouseError, match="2 levels need a horizon divisible by 2, not 7"):
        build_model({"name": "temporal", "horizon": 7})
    with pytest.raises(StillhouseError, match=r"chunks of shape \(8, 2\), not \(6, 2\)"):
        build_model({"name": "temporal"})(torch.zeros(1, 6, 2), torch.zeros(1))
