"""Critics: heads that fit, pair conditioning, losses."""

import math

import pytest
import torch

from stillhouse.adapters import adapted
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.parts.gaps.critic import (
    Head,
    JumpCritic,
    channel_of,
    discriminator_loss,
    features,
    features_at,
    generator_loss,
    head_for,
)

NETS = {
    "mlp": ({"name": "mlp", "width": 16, "depth": 2}, (2,)),
    "unet": ({"name": "unet", "image_channels": 3, "channels": (8, 16)}, (3, 8, 8)),
    "dit": ({"name": "dit", "image_channels": 3, "dim": 16, "depth": 2, "patch": 2, "heads": 2}, (3, 8, 8)),
}


def network(name):
    config, shape = NETS[name]
    return Denoiser(build_model(config), Flow()), shape


@pytest.mark.parametrize("name", NETS)
def test_a_jump_critic_fits_every_network_and_hears_the_start_only_in_pairs(name):
    denoiser, shape = network(name)
    critic = JumpCritic(denoiser, shape)
    x, start = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)), torch.zeros(4, *shape)
    s, t = torch.full((4,), 0.25), torch.full((4,), 0.5)
    pair, other = critic([x, x + 1], s, (start, t))
    (alone,) = critic([x], s, None)
    assert pair.shape == other.shape == alone.shape == (4,) and not torch.allclose(pair, other)
    assert not torch.allclose(pair, critic([x], s, (start + 1, t))[0])
    pair.sum().backward()
    assert critic.pair.out[0].weight.grad is not None and critic.alone.out[0].weight.grad is None
    first = next(p for n, p in denoiser.net.named_parameters() if not n.startswith(("embed", "output")))
    assert first.grad is not None and first.grad.any(), "the backbone learns, too"


@pytest.mark.parametrize("name", NETS)
def test_heads_take_several_states_side_by_side(name):
    denoiser, shape = network(name)
    h = features(denoiser, torch.zeros(2, *shape), torch.full((2,), 0.5))
    assert head_for(denoiser, shape, 3)(torch.cat([h, h, h], channel_of(h))).shape == (2,)


def test_a_head_fits_a_teacher_whose_adapters_are_off():
    denoiser, shape = network("mlp")
    assert head_for(adapted(denoiser, 2), shape)(torch.zeros(3, 16)).shape == (3,)


def test_losses_are_the_papers():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    p = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    half = 0.5 * (((p(2) - 1) ** 2 + (p(-1) - 1) ** 2) / 2 + (p(0.5) ** 2 + p(-3) ** 2) / 2)
    assert float(discriminator_loss(real, fake, kind="least_squares")) == pytest.approx(half, rel=1e-6)
    assert float(generator_loss(fake, kind="least_squares")) == pytest.approx(
        ((p(0.5) - 1) ** 2 + (p(-3) - 1) ** 2) / 2, rel=1e-6
    )
    assert float(discriminator_loss(real, fake, kind="hinge")) == pytest.approx(
        (0 + 2) / 2 + (1.5 + 0) / 2
    ) and float(generator_loss(fake, kind="hinge")) == pytest.approx(1.25)


def test_the_usual_loss_is_the_softplus() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    softplus = lambda v: math.log(1 + math.exp(v))  # noqa: E731
    critics = (softplus(-2) + softplus(1)) / 2 + (softplus(0.5) + softplus(-3)) / 2
    students = (softplus(-0.5) + softplus(3)) / 2
    for kind in ({}, {"kind": "softplus"}):
        assert float(discriminator_loss(real, fake, **kind)) == pytest.approx(critics, rel=1e-6)
        assert float(generator_loss(fake, **kind)) == pytest.approx(students, rel=1e-6)
    for loss in (lambda: discriminator_loss(real, fake, "wgan"), lambda: generator_loss(fake, "wgan")):
        with pytest.raises(StillhouseError, match="adversarial loss 'wgan'"):
            loss()


def test_a_head_reads_the_mean_over_places() -> None:
    g = torch.Generator().manual_seed(0)
    for channels, side, shape, layers in ((12, 4, (12, 4, 8), 6), (4, 1, (4, 3, 5), 0), (4, 2, (4, 2, 2), 3)):
        head, h = Head(channels, side), torch.randn(3, *shape, generator=g)
        assert len(head.down) == layers
        inner = head.down(h)
        rows, columns = shape[1] // side, shape[2] // side
        assert inner.shape[2:] == ((rows, columns) if layers else shape[1:])
        torch.testing.assert_close(head(h), head.out(inner.flatten(2).sum(2) / inner[0, 0].numel())[:, 0])
    assert Head(12, 4).down[1].num_groups == 4 and Head(16, 4).down[1].num_groups == 8
    tokens = torch.randn(3, 5, 4, generator=g)
    head = Head(4)
    torch.testing.assert_close(head(tokens), head.out(tokens.sum(1) / 5)[:, 0])
    torch.testing.assert_close(head(tokens[:, 0]), head.out(tokens[:, 0])[:, 0])


def test_heads_are_made_for_the_sides_and_channels_of_the_features() -> None:
    denoiser, shape = network("unet")  # the middle has 16 channels of 2 x 2
    head = head_for(denoiser, shape, 2)
    assert len(head.down) == 3 and head.out[0].in_features == 32
    assert len(head_for(denoiser, (3, 8, 16)).down) == 3  # of 2 x 4 places the smaller side
    denoiser, shape = network("dit")
    assert len(head_for(denoiser, shape).down) == 0 and head_for(denoiser, shape).out[0].in_features == 16
    assert not any(p.grad is not None for p in denoiser.parameters())


def test_where_the_channels_are() -> None:
    assert [channel_of(torch.zeros([2] * n)) for n in (2, 3, 4)] == [1, 2, 1]


def test_a_network_without_a_middle_is_named() -> None:
    with pytest.raises(StillhouseError, match="A Identity names no `middle`"):
        features(Denoiser(torch.nn.Identity(), Flow()), torch.zeros(1, 2), torch.zeros(1))


class Joint(torch.nn.Module):
    """A block of text and picture at once."""

    def forward(self, text, picture):
        return text + 1, picture + 2


class JointNet(torch.nn.Module):
    middle = "blocks.1"

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Joint(), Joint()])

    def forward(self, x, t, cond=None):
        text = torch.zeros(len(x), 4, 1)
        for block in self.blocks:
            text, x = block(text, x)
        return x


def test_features_of_joint_blocks_are_the_pictures():
    denoiser, x = Denoiser(JointNet(), Flow()), torch.zeros(2, 3, 1)
    kept = features_at(denoiser, ["net.blocks.0", "net.blocks.1"], x, torch.full((2,), 0.5))
    assert [float(h.mean()) for h in kept] == [2, 4] and all(h.shape == x.shape for h in kept)
    assert torch.equal(kept[1], features(denoiser, x, torch.full((2,), 0.5)))


def test_a_head_is_found_under_a_networks_own_empty_condition():
    class Needy(torch.nn.Module):
        middle = "inner"

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(2, 5)

        def forward(self, x, t, cond):
            assert cond.shape == (len(x), 3)
            return self.inner(x)

    denoiser = Denoiser(Needy(), Flow(), empty=torch.zeros(1, 3))
    assert head_for(denoiser, (2,)).out[0].in_features == 5
