"""The U-Net's attention at more than its middle."""

import pytest
import torch
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from stillhouse.core.errors import StillhouseError
from stillhouse.models import build_model
from stillhouse.models.unet import Attend

SMALL = {"name": "unet", "channels": [8, 8, 16], "heads": 2, "token_dim": 6}


def make(**options):
    """A network with random weights everywhere, an input batch and tokens for it."""
    net = build_model({**SMALL, **options}).double()
    g = torch.Generator().manual_seed(1)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.1, generator=g)
    x, tokens = (
        torch.randn(3, 1, 16, 16, generator=g, dtype=torch.float64),
        torch.randn(3, 4, 6, generator=g, dtype=torch.float64),
    )
    mask = torch.arange(4) < torch.tensor([[4], [2], [0]])
    return net, x, torch.rand(3, generator=g, dtype=torch.float64), {"tokens": tokens, "mask": mask}


def crosses(net):
    return [name for name, m in net.named_modules() if isinstance(m, Attend) and hasattr(m, "cross")]


def test_lowest_levels_attend_on_the_way_down_and_up():
    assert crosses(make()[0]) == ["mid"]
    assert set(crosses(make(attention=1)[0])) == {"mid", "attend.down_2", "attend.up_0"}
    assert set(crosses(make(attention=2)[0])) == {
        "mid",
        "attend.down_1",
        "attend.down_2",
        "attend.up_0",
        "attend.up_1",
    }
    assert len(crosses(make(attention=3, blocks=2)[0])) == 1 + 2 * 3 * 2
    with pytest.raises(StillhouseError, match="A U-Net of 3 levels can't have attention at 4"):
        build_model({**SMALL, "attention": 4})


def test_attention_is_at_its_level_s_own_size():
    net, x, t, told = make(attention=2)
    sizes = {name: f.shape[1:] for name, f in net.taps(crosses(net), x, t, told)[1].items()}
    low, mid = (16, 2, 2), (8, 4, 4)
    assert sizes == {
        "mid": low,
        "attend.down_2": low,
        "attend.up_0": low,
        "attend.down_1": mid,
        "attend.up_1": mid,
    }


def test_without_it_nothing_has_changed():
    net = build_model(SMALL)
    assert not any(name.startswith("attend") for name in net.state_dict()) and net.config["attention"] == 0
    deeper = build_model({**SMALL, "attention": 2})
    assert net.state_dict().keys() < deeper.state_dict().keys()
    # its layers start without effect: the answer is that of the same network without them
    deeper.load_state_dict(net.state_dict(), strict=False)
    torch.nn.init.normal_(deeper.output.weight, generator=torch.Generator().manual_seed(0))
    net.output.load_state_dict(deeper.output.state_dict())
    x, t = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.7])
    assert net(x, t).abs().max() > 0.1 and torch.equal(net(x, t), deeper(x, t))


def test_every_layer_hears_the_prompt():
    net, x, t, told = make(attention=2)
    out = net(x, t, told)
    assert torch.allclose(out[2], net(x, t)[2], atol=1e-12)  # a mask without a True is the empty condition
    for name in crosses(net):
        weight = net.get_submodule(name).cross.out.weight
        kept = weight.detach().clone()
        weight.data.zero_()
        assert (net(x, t, told) - out).abs().amax((1, 2, 3)).min() > 1e-4, name
        weight.data.copy_(kept)


def test_forward_mode_agrees_with_differences():
    net, x, t, told = make(attention=2)
    v, one, h = (
        torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
        torch.ones_like(t),
        1e-6,
    )
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward mode
        _, tangent = jvp(lambda x, t: net(x, t, told), (x, t), (v, one))
    difference = (net(x + h * v, t + h, told) - net(x - h * v, t - h, told)) / (2 * h)
    assert tangent.abs().max() > 1e-2 and torch.allclose(tangent, difference, rtol=1e-5, atol=1e-7)


def test_it_compiles_to_one_graph_and_checkpoints_alike():
    net, x, t, told = make(channels=[8, 8], attention=1)
    out = net(x, t, told)
    assert torch.allclose(torch.compile(net, backend="eager", fullgraph=True)(x, t, told), out, atol=1e-12)
    gradients = []
    for switch in (False, True):
        net.checkpointing = switch
        gradients.append(
            torch.autograd.grad(net(x, t, told).square().sum(), list(net.parameters()), allow_unused=True)
        )
    assert all(a is b is None or torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients, strict=True))
