import pytest
import torch

from stillhouse.api.evaluate import exact_teacher
from stillhouse.core.bridge import ResShift
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.process import expand_to
from stillhouse.core.schedules import Flow
from stillhouse.model import Model
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.restoration.tad_sr import TADSR, detail
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world
from stillhouse.worlds.mixture.world import MixtureDenoiser

torch.set_num_threads(1)
BRIDGE, ROWS = ResShift(), 8


def shaken(network, seed: int = 1):
    """The zero-initialised last layers hide gradients and conditions; move every weight a little."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return network


def built(closed: bool = False, student=None, **options) -> TADSR:
    world, method = (
        get_world("mixture", bridge="told"),
        TADSR(**{"maps": 4, **({"gan_weight": 0.0} if closed else {}), **options}),
    )
    network = shaken(world.network(BRIDGE, 0, kind="scaled", width=16, depth=2))
    own = Model(network, world.shape, 0, {1: Sampling([1.0, 0.0])}, free_steps=True, cond_kind="image")
    teacher = exact_teacher(world, BRIDGE) if closed else own
    student = shaken(network.copy(), 2) if closed else student
    Trainer(
        method, teacher, InfiniteData(world, True, teacher), Recipe(batch=ROWS), student=student, quiet=True
    )
    method.x, labels = world.sample_data(ROWS, Draws(ROWS, "x"))
    method.cond = world.condition(labels)
    return method


def batch_of(method: TADSR, seed: int = 0) -> Batch:
    x = BRIDGE.to_state(method.x, method.cond)
    return Batch(0, ROWS, (2,), x, method.cond, ("critic", "student"), lambda name: Draws(ROWS, seed, name))


def test_detail_is_the_card_formula_and_vanishes_at_the_reference():
    method, t = built(closed=True), torch.full((ROWS,), 2 / 15)
    x, reference, eps = (Draws(ROWS, name).normal(2) for name in ("x", "y", "eps"))
    assert torch.equal(detail(x, x, t, eps, method.teacher, method.cond), torch.zeros(ROWS, 2))
    alpha, sigma = (expand_to(f(t), x) for f in (BRIDGE.alpha, BRIDGE.sigma))
    d = [method.teacher(alpha * u + sigma * eps, t, method.cond).x0 for u in (x, reference)]
    by_hand = alpha / sigma * ((x - reference) - (d[0] - d[1]))
    torch.testing.assert_close(
        detail(x, reference, t, eps, method.teacher, method.cond), by_hand, atol=1e-4, rtol=1e-4
    )


def test_detail_pulls_towards_the_reference_within_a_mode_but_to_the_nearest_one_between_two():
    def pull(means, stds, x, reference):
        count = len(means)
        teacher = MixtureDenoiser(
            Flow(),
            torch.tensor(means),
            torch.tensor(stds),
            torch.ones(count) / count,
            torch.zeros(count).long(),
        )
        x, reference = torch.tensor([x]), torch.tensor([reference])
        g = detail(x, reference, torch.tensor([0.25]), torch.zeros(1, 1), teacher)
        return float(g * (x - reference))

    assert all(pull([[0.0]], [0.5], [x], [y]) > 0 for x, y in ((1.0, 0.2), (-2.0, 0.3), (0.1, 0.0)))
    assert pull([[-1.0], [1.0]], [0.2, 0.2], [-0.1], [0.1]) < 0


def test_target_is_the_published_walk():
    """``x_{i-1} = k D + m x_i + j y`` over all 15 levels, from the state that the student is shown."""
    method = built(closed=True)
    seen = []
    method.student.register_forward_pre_hook(lambda _m, args: seen.append(args))
    batch = batch_of(method)
    batch.player = "student"
    method.samples(batch)
    y = method.cond["image"].double()
    root = torch.cat([torch.zeros(1), 0.02 * (0.99 / 0.02) ** ((torch.arange(15) / 14) ** 0.3)]).double()
    x = seen[0][0].double() + y
    torch.testing.assert_close(seen[0][0], 2 * 0.99 * Draws(ROWS, 0, "start").normal(2), atol=1e-6, rtol=0)
    assert seen[0][1].tolist() == [1.0] * ROWS
    for i in range(15, 0, -1):
        m, j = root[i - 1] / root[i], root[i - 1] ** 2 - root[i - 1] * root[i]
        k = 1 - root[i - 1] ** 2 + root[i - 1] * root[i] - m
        d = method.teacher(x - y, torch.full((ROWS,), i / 15, dtype=torch.float64), method.cond).x0 + y
        x = k * d + m * x + j * y
    torch.testing.assert_close(method.target(batch).double() + y, x, atol=1e-4, rtol=0)


def test_noise_levels_are_the_smallest_for_detail_and_all_but_the_last_for_the_critic():
    method = built()

    def level(name, below):
        return torch.cat([method.level(batch_of(method, seed), name, below)[0] for seed in range(200)])

    assert level("detail", method.levels).mul(15).round().unique().tolist() == [1, 2, 3]
    assert level("judge", method.steps - 1).mul(15).round().unique().tolist() == list(range(1, 15))
    a, b = (method.level(batch_of(method), "judge", 14) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])  # the same for both players
    assert abs(float(a[1].mean())) < 1 and float(a[1].min()) < 0  # normal, not uniform, noise


def test_who_gets_gradient():
    method = built(gan_weight=0.5)

    def sizes(player):
        batch = batch_of(method)
        loss = (
            method.loss("critic", batch)
            if player == "critic"
            else (method.loss("critic", batch), method.loss("student", batch))[1]
        )
        both = [*method.student.parameters(), *method.critic.parameters()]
        grads = torch.autograd.grad(loss, both, allow_unused=True)
        cut = len(list(method.student.parameters()))
        return [
            sum(float(g.abs().sum()) for g in part if g is not None) for part in (grads[:cut], grads[cut:])
        ]

    assert sizes("critic")[0] == 0 and sizes("critic")[1] > 0
    assert sizes("student")[0] > 0
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_the_critic_reads_the_teacher_whatever_the_student_is():
    wide = get_world("mixture", bridge="told").network(BRIDGE, 0, kind="scaled", width=24, depth=2)
    method = built(student=wide, gan_weight=0.5)
    assert [head.first[0].in_channels for head in method.critic.heads] == [16, 16]
    method.loss("critic", batch_of(method)).backward()
    assert all(p.grad is None for p in wide.parameters())
    assert any(p.grad is not None and p.grad.any() for p in method.critic.parameters())


def test_needs_and_refusals():
    assert TADSR().requires("data") and not TADSR(gan_weight=0.0).requires("data")
    assert TADSR(gan_weight=0.0).turns(0) == ["student"] and TADSR().turns(0) == ["critic", "student"]
    with pytest.raises(StillhouseError, match="'levels' is at most 'steps', 4, not 5"):
        TADSR(steps=4, levels=5)
    assert TADSR(steps=4, levels=4).levels == 4
    with pytest.raises(StillhouseError, match="closed-form teacher has no features"):
        built(closed=True, gan_weight=0.02)
