import pytest
import torch

from stillhouse.core.bridge import Brownian, ResShift, unconditional
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow
from stillhouse.parts.gaps.critic import encoder_of, features_at
from stillhouse.parts.gaps.time_critic import SpectralConv1d, Step, TimedCritic, TimedHead
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


@pytest.mark.parametrize("shape", [(8, 4, 4), (5, 8), (8,)])
def test_a_heads_logits_are_those_of_its_layers(shape):
    g = torch.Generator().manual_seed(0)
    head, h, t = TimedHead(8, 3), torch.randn(2, *shape, generator=g), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        head.mix.weight.normal_(generator=g)
    places = {2: lambda h: h[:, :, None, None], 3: lambda h: h.transpose(1, 2)[..., None], 4: lambda h: h}[
        h.dim()
    ](h)
    scale, shift = head.film(head.time(t))[:, :, None, None].split(8, 1)
    modulated = head.norm(places) * scale + head.norm(places) + shift
    inner = head.first((places + head.mix(modulated * torch.sigmoid(modulated))).flatten(2))
    expected = head.out((inner + head.second(inner)) * 0.5**0.5)
    torch.testing.assert_close(head(h, t), expected, rtol=1e-4, atol=1e-5)


def test_a_step_normalises_in_four_groups_where_it_can():
    for channels, groups in ((8, 4), (6, 1)):
        step = Step(channels, 9)
        assert step[1].num_groups == groups and step[2].negative_slope == 0.2
        assert step[0].kernel_size == (9,) and step[0].padding == (4,)
        h = torch.randn(2, channels, 20)
        torch.testing.assert_close(step(h), torch.nn.functional.leaky_relu(step[1](step[0](h)), 0.2))


def test_the_power_method_finds_a_singular_vector_that_is_close_to_another():
    conv = SpectralConv1d(3, 3, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.diag(torch.tensor([1.0, 0.8, 0.1]))[..., None])
    torch.testing.assert_close(conv(torch.eye(3)[None]), torch.diag(torch.tensor([1.0, 0.8, 0.1]))[None])
    conv.weight.grad = None
    conv(torch.ones(1, 3, 1)).sum().backward()
    # of w / w_00 at an input of ones: 1 for each entry, less the sum, 1.9, for the first
    expected = torch.ones(3, 3)
    expected[0, 0] -= 1.9
    torch.testing.assert_close(conv.weight.grad[..., 0], expected, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        conv.weight.zero_()
    assert not conv(torch.ones(1, 3, 2)).any()


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


class Reads(torch.nn.Module):
    """A network that insists on its condition, and adds it."""

    middle = "blocks.0"

    def __init__(self, wanted):
        super().__init__()
        self.blocks, self.wanted = torch.nn.ModuleList([torch.nn.Linear(8, 8)]), wanted

    def forward(self, x, t, cond):
        assert self.wanted(cond)
        return self.blocks[0](x + (0 if cond is None else cond))


def test_a_critic_is_made_under_what_the_network_takes_for_no_condition():
    empty = torch.full((1, 8), 3.0)
    for process in (Flow(), Brownian()):
        with_empty = Denoiser(Reads(lambda c: (c == 3).all()), process, "x0", empty=empty)
        assert len(TimedCritic(with_empty, (8,), 4).heads) == 1
    TimedCritic(Denoiser(Reads(lambda c: c is None), Flow(), "x0"), (8,), 4)
    TimedCritic(Denoiser(Reads(lambda c: c is None), Brownian(), "x0", call=unconditional), (8,), 4)


def test_the_critic_reads_features_under_the_condition():
    denoiser = Denoiser(Reads(lambda c: True), Flow(), "x0")
    critic, x, t = TimedCritic(denoiser, (8,), 4), torch.randn(2, 8), torch.full((2,), 0.5)
    plain, told = critic(denoiser, x, t), critic(denoiser, x, t, torch.ones(2, 8))
    assert not torch.allclose(plain, told)
    assert torch.equal(told, critic(denoiser, x + 1, t))
