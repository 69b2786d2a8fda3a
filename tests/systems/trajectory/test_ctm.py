"""Consistency trajectory models: times, jumps, who learns through whom, and the flow map that has no loss."""

import pytest
import torch
from torch import nn

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import jump
from stillhouse.core.prediction import EDM
from stillhouse.core.schedules import VE, Cosine, Flow
from stillhouse.parts.gaps.adaptive_weight import last_weight
from stillhouse.systems.trajectory.ctm import CTM
from stillhouse.train.batch import Batch
from stillhouse.worlds.base import get_world

WORLD = get_world("mixture")
STD = 0.7
GAUSSIAN = get_world("mixture", layout="grid", side=1, std=STD)  # one Gaussian around the origin


def shaken(denoiser, std=0.2):
    """Weights that are nowhere zero, as after some training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=std)
    return denoiser


def ready(process, world=WORLD, student=None, teacher=None, total=100, **options):
    method = CTM(**options)
    student = student or shaken(
        world.network(process, 0, kind="edm", width=16, depth=1, classes=0, two_time=True)
    )
    method.setup(teacher or world.exact(process), student, world.shape, total=total)
    return method


def batch_of(rows=64, step=0, world=WORLD, turns=("student",)):
    x, _ = world.sample_data(rows, Draws(rows, "data"))
    return Batch(
        step, rows, world.shape, x, None, turns, lambda name: Draws(rows, step, name), player=turns[0]
    )


class GaussianJump(nn.Module):
    """``g(x, t, s)`` of the true flow map of one Gaussian: the ``g`` whose DDIM step leads to where the path
    is at ``s``."""

    def __init__(self, process):
        super().__init__()
        self.process, self.scale = process, nn.Parameter(torch.ones(()))

    def spread(self, t):
        return (self.process.alpha(t) ** 2 * STD**2 + self.process.sigma(t) ** 2).sqrt()

    def forward(self, x, t, cond, s):
        ratio = self.process.sigma(s) / self.process.sigma(t).clamp_min(1e-9)
        gain = self.process.alpha(s) - ratio * self.process.alpha(t)
        near = gain.abs() < 1e-6  # no jump: any g will do, and the denoiser is its limit
        step = (self.spread(s) / self.spread(t) - ratio) / torch.where(near, torch.ones_like(gain), gain)
        mean = self.process.alpha(t) * STD**2 / self.spread(t) ** 2
        return self.scale * torch.where(near, mean, step)[:, None] * x


def test_times_follow_the_papers_law():
    method, most, n_drawn = ready(VE(), segment=4), 4, []
    for step in range(400):
        i, j, n = method.draw_times(batch_of(256, step))
        n_drawn.append(n)
        assert 1 <= n <= most and i.min() >= 0 and (i + n <= j).all() and j.max() <= 17
    share = torch.bincount(torch.tensor(n_drawn), minlength=5)[1:] / 400
    assert (share - torch.tensor([0.1, 0.2, 0.3, 0.4])).abs().max() < 0.08
    i, j, n = method.draw_times(batch_of(40000))
    assert set(i.tolist()) == set(range(18 - n)) and bool((j == i + n).any()) and bool((j == 17).any())
    start = j[i == 0]  # ends are uniform over what is left
    assert (torch.bincount(start, minlength=18)[n:] / len(start) - 1 / (18 - n)).abs().max() < 0.03


@pytest.mark.parametrize("process", [VE(), Flow(), Cosine()])
def test_a_jump_of_no_length_is_the_identity(process):
    method, x = ready(process), Draws(16, "x").normal(2)
    t = torch.linspace(max(process.t_min, 0.02), 1, 16)
    torch.testing.assert_close(jump(method.student, x, t, t), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("process", [VE(), Flow()])
def test_the_true_flow_map_has_next_to_no_loss(process):
    def loss(scale):
        net = GaussianJump(process)
        nn.init.constant_(net.scale, scale)
        student = Denoiser(net, process, "x0", two_time=True)
        method = ready(process, GAUSSIAN, student, denoising=False, levels=80, segment=3)
        batch = batch_of(2048, world=GAUSSIAN)
        landed = method.landing(batch)
        target = method.target_x0(landed.x_t, landed.times, landed.s, batch)
        return float((landed.x - target).square().mean().detach())

    assert loss(1.0) < 1e-5 and loss(0.9) > 100 * loss(1.0)


def test_denoising_is_weighed_to_the_same_gradient():
    grads = []
    for denoising in (False, True):
        method = ready(VE(), denoising=denoising)
        grads.append(torch.autograd.grad(method.student_loss(batch_of()), last_weight(method.student))[0])
    alone, added = grads[0].norm(), (grads[1] - grads[0]).norm()
    assert added == pytest.approx(float(alone), rel=2e-3)


def test_denoising_times():
    method = ready(VE())
    t = method.denoising_times(batch_of(40000))
    sigma = VE().sigma(t.double())
    assert t.min() >= VE().t_min - 1e-6 and t.max() <= 1
    low = VE().sigma(torch.tensor(1 - 0.7 * (1 - VE().t_min)))  # below it, only the log-normal half reaches
    normal = torch.distributions.Normal(-1.2, 1.2)
    assert float((sigma < low).double().mean()) == pytest.approx(float(normal.cdf(low.log())) / 2, abs=0.01)
    assert float((sigma < 10).double().mean()) == pytest.approx(
        float(normal.cdf(torch.tensor(10.0).log())) / 2
        + 0.5 * (1 - (1 - (10 / 80) ** (1 / 7)) / (0.7 * (1 - VE().t_min))),
        abs=0.01,
    )


def test_the_critic_joins_late_and_alternates():
    teacher = shaken(WORLD.network(VE(), 1, kind="edm", width=24, depth=1, classes=0))
    method = ready(VE(), teacher=teacher, critic_from=0.5, total=10)
    late = ["critic", "student", "critic", "student", "critic"]
    assert [method.turns(k) for k in range(10)] == [["student"]] * 5 + [[name] for name in late]
    teacher.calls = 0
    loss = method.critic_loss(batch_of(step=7, turns=("critic",)))
    loss.backward()
    assert (
        teacher.calls == 2
    )  # real and fake features: the target, which this loss does not read, is not made
    assert all(p.grad is None for p in method.student.parameters())
    assert not any(CTM().turns(k) != ["student"] for k in range(4))


def test_the_critics_share_is_bounded():
    for size, share in ((1e-6, 10.0), (1e6, 0.01)):  # of its gradient, beside that of the consistency
        teacher = shaken(WORLD.network(VE(), 1, kind="edm", width=16, depth=1, classes=0))
        losses = []
        for critic_from in (0.5, 1.0):
            method = ready(VE(), teacher=teacher, critic_from=critic_from, denoising=False, total=10)
            method.logits = lambda x, batch, size=size: size * x.sum(1)
            batch = batch_of(step=6)
            losses.append(method.student_loss(batch).detach().double())
        adversarial = -size * method.landing(batch).x.detach().sum(1).mean()
        torch.testing.assert_close(
            float(losses[0] - losses[1]), float(share * adversarial), rtol=1e-3, atol=0
        )


def test_a_grown_teacher_keeps_its_denoiser_and_samples_end_clean():
    teacher = shaken(WORLD.network(VE(), 1, kind="edm", width=16, depth=1, classes=0))
    method = CTM(gamma=0.3, steps=4)
    student = method.make_student(teacher)
    method.setup(teacher, student, WORLD.shape)
    x, t = Draws(8, "x").normal(2), torch.full((8,), 0.6)
    torch.testing.assert_close(student(x, t, s=t).x0, teacher(x, t).x0)
    assert isinstance(student.kind, EDM) and student.two_time and not student.kind.boundary
    ways = method.samplings()
    assert list(ways) == [4, 1, 2] and set(ways[4].times[:-1]) <= set(method.grid.tolist())
    assert ways[4].solver == {"name": "gamma", "gamma": 0.3} and ready(VE()).samplings()[1].solver == "ddim"
    for levels in (3, 4):
        assert list(ready(VE(), levels=levels).samplings()) == [1, 2]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(StillhouseError, match="two_time"):
        ready(VE(), student=WORLD.network(VE(), 0, width=16, depth=1))
    with pytest.raises(StillhouseError, match="4 calls"):
        CTM(levels=4, steps=4)
