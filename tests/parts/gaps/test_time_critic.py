import pytest
import torch

from stillhouse.core.bridge import ResShift
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.parts.gaps.critic import encoder_of, features_at
from stillhouse.parts.gaps.time_critic import SpectralConv1d, TimedCritic, TimedHead
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)


def unet(process=None):
    network = get_world("digits").network(
        process or Flow(), channels=(8, 16), classes=0, image_cond=1, attention=0
    )
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return network.requires_grad_(False)


@pytest.mark.parametrize("kernel", [1, 9])
def test_the_largest_singular_value_is_one(kernel):
    torch.manual_seed(kernel)
    conv = SpectralConv1d(12, 12, kernel, padding=kernel // 2, bias=False)
    h = torch.randn(2, 12, 20)
    largest = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
    plain = torch.nn.functional.conv1d(h, conv.weight, padding=kernel // 2)
    torch.testing.assert_close(conv(h), plain / largest, rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        conv.weight.mul_(7)
    torch.testing.assert_close(conv(h), plain / largest, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape,places", [((8, 4, 4), 16), ((5, 8), 5), ((8,), 1)])
def test_logits_at_each_place_of_images_tokens_and_vectors(shape, places):
    head = TimedHead(8, 3)
    assert head(torch.randn(2, *shape), torch.rand(2)).shape == (2, 3, places)


def test_the_time_starts_without_effect_and_is_then_heard_unless_it_must_not_be():
    for timed in (True, False):
        head, h = TimedHead(8, 3, timed), torch.randn(2, 8, 4, 4)
        early, late = torch.full((2,), 0.1), torch.full((2,), 0.9)
        assert torch.equal(head(h, early), head(h, late))
        torch.nn.init.normal_(head.mix.weight, generator=torch.Generator().manual_seed(0))
        assert torch.equal(head(h, early), head(h, late)) != timed


def test_features_of_every_block_of_the_encoder_are_those_of_the_whole_pass():
    network = unet()
    names = encoder_of(network)
    assert names == ["net.down.0", "net.down.1", "net.mid"]
    x, t = Draws(3, "x").normal(1, 8, 8), torch.tensor([0.2, 0.5, 0.9])
    seen, outputs = features_at(network, names, x, t), {}
    hooks = [
        network.get_submodule(n).register_forward_hook(lambda _m, _i, o, n=n: outputs.__setitem__(n, o))
        for n in [*names, "net.up.0"]
    ]
    network(x, t)
    assert len(seen) == 3
    for name, h in zip(names, seen, strict=True):
        assert torch.equal(outputs[name], h)
    outputs.clear()
    features_at(network, names, x, t)
    assert "net.up.0" not in outputs  # the rest is not computed
    for hook in hooks:
        hook.remove()
    mlp = get_world("mixture").network(Flow(), width=16, depth=3)
    assert encoder_of(mlp) == ["net.blocks.0", "net.blocks.1"]


def test_the_critic_reads_a_bridges_network_and_its_gradient_reaches_the_sample():
    network = unet(ResShift())
    critic = TimedCritic(network, (1, 8, 8), maps=4)
    x, cond = torch.zeros(2, 1, 8, 8, requires_grad=True), {"image": torch.ones(2, 1, 8, 8)}
    logits = critic(network, x, torch.full((2,), 0.3), cond)
    assert logits.shape == (2, 4 * (64 + 16 + 16))  # 8 x 8 places at the first level, 4 x 4 at the others
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert float(gradient.abs().sum()) > 0
    assert not {id(p) for p in network.parameters()} & {id(p) for p in critic.parameters()}
