"""Players on one base: each hears its own adapter alone, whatever was on before, and the base never moves."""

import copy

import pytest
import torch

from stillhouse.adapters import Adapted, adapted, checkpointed
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.train.ema import EMA
from stillhouse.worlds.base import get_world

X, T = Draws(4, "x").normal(1, 16, 16), torch.full((4,), 0.7)
LABELS = torch.arange(4)


def teacher(name="unet", **options):
    size = {"channels": (8, 16), "patch": 2} if name == "unet" else {"dim": 16, "depth": 2, "heads": 2}
    net = build_model({"name": name, "classes": 10, **size, **options}, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(
                0.05 * torch.randn(p.shape, generator=generator)
            )  # the zero layers of a fresh network would hide everything
    return Denoiser(net, Flow())


def stirred(player, seed):
    """A player whose adapter has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in player.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return player


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize("targets", ["attention", "linear", "all"])
def test_players_are_apart_and_the_teacher_stays_bit_for_bit(name, targets):
    plain = teacher(name)
    before = plain(X, T, LABELS).raw.detach()
    base = adapted(plain, 2, targets=targets)
    weights = {k: v.clone() for k, v in base.base.net.state_dict().items() if "lora" not in k}
    a, b = base.copy(), base.copy()
    assert torch.equal(a(X, T, LABELS).raw, before)  # without effect at the start
    stirred(a, 2), stirred(b, 3)
    said_a, said_b = a(X, T, LABELS).raw.detach(), b(X, T, LABELS).raw.detach()
    assert float((said_a - before).abs().max()) > 1e-3 and float((said_a - said_b).abs().max()) > 1e-3
    optimiser = torch.optim.Adam(a.parameters(), 1e-2)
    a(X, T, LABELS).raw.square().mean().backward()
    assert all(p.grad is None for p in b.parameters()) and all(p.grad is not None for p in a.parameters())
    optimiser.step()
    assert not torch.equal(a(X, T, LABELS).raw, said_a)
    assert torch.equal(b(X, T, LABELS).raw, said_b)
    assert torch.equal(base(X, T, LABELS).raw, before) and torch.equal(plain(X, T, LABELS).raw, before)
    assert all(torch.equal(v, base.base.net.state_dict()[k]) for k, v in weights.items())
    assert not list(base.parameters())
    share = sum(p.numel() for p in a.parameters()) / sum(
        p.numel() for k, p in base.base.net.named_parameters() if "lora" not in k
    )
    assert 0 < share < (0.5 if targets == "all" else 0.35)


def test_a_copy_of_a_player_has_its_weights_and_goes_its_own_way():
    a = stirred(adapted(teacher(), 2).copy(), 2)
    twin = copy.deepcopy(a)
    assert isinstance(twin, Adapted) and twin.base is a.base
    assert torch.equal(twin(X, T, LABELS).raw, a(X, T, LABELS).raw)
    pred = a(X, T, LABELS).raw
    slow = EMA(twin, stirred(a, 3), 0.5)
    slow.follow(0)
    assert not torch.equal(twin(X, T, LABELS).raw, pred)
    half = {
        k: 0.5 * (v + slow_before)
        for (k, v), slow_before in zip(a.state_dict().items(), stirred_back(a, 3), strict=True)
    }
    assert all(torch.allclose(v, half[k], atol=1e-6) for k, v in twin.state_dict().items())


def stirred_back(player, seed):
    """The weights before :func:`stirred`."""
    generator = torch.Generator().manual_seed(seed)
    return [p.detach() - 0.3 * torch.randn(p.shape, generator=generator) for p in player.parameters()]


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_merging_gives_a_plain_network_that_says_the_same(targets):
    a = stirred(adapted(teacher(), 2, alpha=3.0, targets=targets).copy(), 2).double()
    checkpointed(a)
    plain = a.merged()
    assert type(plain) is Denoiser and not plain.net.checkpointing
    assert set(plain.net.state_dict()) == set(teacher().net.state_dict())
    x, t = X.double(), T.double()
    torch.testing.assert_close(
        plain(x, t, LABELS).raw, a(x, t, LABELS).raw, atol=1e-6, rtol=1e-6
    )  # time features stay in float32


def test_what_is_computed_again_meets_the_adapter_of_the_first_time():
    kept, again = (stirred(adapted(teacher(), 2, targets="all").copy(), 2) for _ in range(2))
    again.load_state_dict(kept.state_dict())  # torch's initialisers know no generator
    checkpointed(again)
    for player in (kept, again):
        loss = player(X, T, LABELS).raw.square().mean()
        with player.base.on(None):  # another player's call comes between
            player.off(X, T, LABELS)
            loss.backward()
    pairs = list(zip(kept.parameters(), again.parameters(), strict=True))
    assert all(torch.allclose(p.grad, q.grad, atol=1e-6) for p, q in pairs)
    assert max(float(p.grad.abs().max()) for p, _ in pairs) > 1e-4


def test_two_players_in_one_graph_and_gradients_through_the_frozen_one():
    base = adapted(teacher(), 2, targets="linear")
    a, b = stirred(base.copy(), 2), stirred(base.copy(), 3)
    b.requires_grad_(False)
    through = b(a(X, T, LABELS).x0, T, LABELS).x0.square().mean()
    through.backward()
    assert all(p.grad is not None for p in a.parameters()) and all(p.grad is None for p in b.parameters())
    plain_a, plain_b = a.merged(), b.merged().requires_grad_(False)
    x = X.clone().requires_grad_()
    (mine,) = torch.autograd.grad(b(a(x, T, LABELS).x0, T, LABELS).x0.square().mean(), x)
    y = X.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(plain_b(plain_a(y, T, LABELS).x0, T, LABELS).x0.square().mean(), y)
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_compiled_players_stay_apart():
    base = adapted(teacher("dit"), 2, targets="linear")
    a, b = stirred(base.copy(), 2), stirred(base.copy(), 3)
    plain = [p(X, T, LABELS).raw for p in (base, a, b)]
    base.net.compile(backend="eager")
    for _ in range(2):
        for player, pred in zip((base, a, b), plain, strict=True):
            torch.testing.assert_close(player(X, T, LABELS).raw, pred, atol=1e-5, rtol=1e-4)


def test_a_network_can_become_a_base_again():
    plain = teacher()
    before = plain(X, T, LABELS).raw.detach()
    first = stirred(adapted(plain, 2).copy(), 2)
    pred = first(X, T, LABELS).raw.detach()
    second = adapted(plain, 3, targets="all")
    other = stirred(second.copy(), 3)
    assert torch.equal(second(X, T, LABELS).raw, before)
    torch.testing.assert_close(first(X, T, LABELS).raw, pred, atol=1e-5, rtol=1e-4)
    assert float((other(X, T, LABELS).raw - pred).abs().max().detach()) > 1e-3
    for player in (first, other):
        folded = player.merged()
        assert set(folded.net.state_dict()) == set(teacher().net.state_dict())
        torch.testing.assert_close(folded(X, T, LABELS).raw, player(X, T, LABELS).raw, atol=2e-5, rtol=1e-4)


def test_what_can_take_no_adapter_is_refused():
    with pytest.raises(StillhouseError, match="closed-form"):
        adapted(get_world("mixture").exact(Flow()), 4)
    with pytest.raises(StillhouseError, match="rank"):
        adapted(teacher(), 0)
    with pytest.raises(StillhouseError, match="No layer"):
        adapted(teacher(), 2, targets=("nowhere",))
    with pytest.raises(StillhouseError, match="choice of layers"):
        adapted(teacher(), 2, targets="everything")
    with pytest.raises(StillhouseError, match="no activation checkpointing"):
        checkpointed(Denoiser(torch.nn.Linear(2, 2), Flow()))
