"""Consistency models: the boundary, the neighbour, the curriculum, guidance as an input, and the function
that has no loss."""

import math

import pytest
import torch
from torch import nn

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.flowmap import jump, predict_x0
from stillhouse.core.guidance import Guided
from stillhouse.core.schedules import VE, Cosine, Flow
from stillhouse.model import Model
from stillhouse.systems.trajectory.cm import CM
from stillhouse.train.batch import Batch
from stillhouse.worlds.base import get_world

WORLD = get_world("mixture")
STD = 0.7
GAUSSIAN = get_world("mixture", layout="grid", side=1, std=STD)  # one Gaussian around the origin


def ready(process, kind="edm", world=WORLD, student=None, total=100, classes=0, **options):
    method = CM(**options)
    hears = {"guidance_input": method.takes_guidance}
    student = student or world.network(process, 0, kind=kind, width=16, depth=1, classes=classes, **hears)
    method.setup(world.exact(process), student, world.shape, classes, total)
    return method


def batch_of(rows=256, step=0, world=WORLD, labelled=False):
    x, labels = world.sample_data(rows, Draws(rows, "data"))
    return Batch(
        step,
        rows,
        world.shape,
        x,
        labels if labelled else None,
        ("student",),
        lambda name: Draws(rows, step, name),
    )


class GaussianEnd(nn.Module):
    """Where the path of the one Gaussian that is the data ends: ``x`` scaled from the spread at ``t`` to that
    at the lowest level."""

    def __init__(self, process):
        super().__init__()
        self.process, self.scale = process, nn.Parameter(torch.ones(()))

    def spread(self, t):
        return (self.process.alpha(t) ** 2 * STD**2 + self.process.sigma(t) ** 2).sqrt()

    def forward(self, x, t, cond):
        return (
            self.scale * x * (self.spread(torch.full_like(t, self.process.t_min)) / self.spread(t))[:, None]
        )


def test_an_edm_student_says_the_state_itself_at_the_lowest_level():
    method = ready(VE())
    low, x = torch.full((16,), VE().t_min, dtype=torch.float64), Draws(16, "x").normal(2, dtype=torch.float64)
    torch.testing.assert_close(predict_x0(method.student.double(), x, low), x, atol=1e-12, rtol=0)
    assert method.target.kind.boundary == method.student.kind.boundary == pytest.approx(0.002)


@pytest.mark.parametrize("kind", ["x0", "velocity", "edm", "eps"])
@pytest.mark.parametrize("process", [VE(), Flow(), Cosine()])
def test_the_last_target_is_the_state_whatever_the_network_says(process, kind):
    if kind == "eps" and not isinstance(process, VE):  # pure noise at t = 1: see tests/train/test_start.py
        with pytest.raises(StillhouseError, match="holds no clean image"):
            ready(process, kind)
        return
    method = ready(process, kind)
    x, u = Draws(8, "x").normal(2), torch.full((8,), process.t_min)
    assert torch.equal(method.target_x0(x, u, batch_of(8), None), x)
    above = u + 0.1
    assert torch.equal(method.target_x0(x, above, batch_of(8), None), predict_x0(method.target, x, above))


@pytest.mark.parametrize("process", [VE(), Flow()])
@pytest.mark.parametrize("source", ["teacher", "data"])
def test_the_true_consistency_function_has_next_to_no_loss(process, source):
    def loss(scale, levels):
        net = GaussianEnd(process)
        nn.init.constant_(net.scale, scale)
        method = ready(
            process, world=GAUSSIAN, student=Denoiser(net, process, "x0"), levels=levels, source=source
        )
        return float(method.student_loss(batch_of(4096, world=GAUSSIAN)).detach())

    true = loss(1.0, 80)
    assert true < 2e-4 if source == "teacher" else true < 2e-2
    assert loss(0.5, 80) > 3 * true
    if (
        source == "teacher"
        # second order: four times the levels, a local error of the answer 64 times smaller, its square 4096
        # times
    ):
        assert loss(1.0, 20) > 100 * true


def test_heun_and_ddim_neighbours():
    process, batch = VE(), batch_of(64)
    x = 5 * Draws(64, "x").normal(2)
    t, u = torch.full((64,), 0.7), torch.full((64,), 0.69)
    euler, heun = (ready(process, solver=s).neighbour(x, t, u, x, batch, None) for s in ("ddim", "heun"))
    exact = WORLD.exact(process)
    torch.testing.assert_close(euler, jump(exact, x, t, u), atol=1e-5, rtol=0)
    slope = [(y - exact(y, v).x0) / process.sigma(v)[:, None] for y, v in ((x, t), (euler, u))]
    torch.testing.assert_close(
        heun,
        x + (process.sigma(u) - process.sigma(t))[:, None] * (slope[0] + slope[1]) / 2,
        atol=1e-4,
        rtol=0,
    )
    end = WORLD.endpoint(process, x.double(), t=0.7, s=0.69)
    assert (heun - end).norm() < 0.2 * (euler - end).norm()


def test_from_data_the_neighbour_keeps_the_noise():
    method, batch, eps = ready(Flow(), source="data"), batch_of(8), Draws(8, "eps").normal(2)
    t, u = torch.full((8,), 0.5), torch.full((8,), 0.25)
    assert torch.equal(method.neighbour(eps, t, u, eps, batch, None), 0.75 * batch.data + 0.25 * eps)


def test_curricula():
    root = ready(VE(), source="data", curriculum="root", levels=151, decay=0.9, total=1000)
    sizes = [root.levels_at(k) for k in range(1001)]
    assert sizes[0] == 2 and sizes[-1] == 151 and sizes == sorted(sizes)
    assert sizes[500] == math.ceil(math.sqrt(0.5 * (151**2 - 4) + 4) - 1) + 1
    assert root.decay_at(0) == pytest.approx(0.9**2) and root.decay_at(1000) == pytest.approx(
        0.9 ** (2 / 150)
    )
    assert ready(VE(), source="data", curriculum="root", levels=20, first_levels=5).levels_at(0) == 5
    doubling = ready(
        VE(), source="data", curriculum="doubling", levels=1281, first_levels=11, decay=0.0, total=800
    )
    assert [doubling.levels_at(k) for k in range(0, 800, 100)] == [11, 21, 41, 81, 161, 321, 641, 1281]
    odd = ready(VE(), source="data", curriculum="doubling", levels=10, first_levels=5, total=9)
    assert [odd.levels_at(k) for k in range(9)] == [5, 5, 5, 9, 9, 9, 10, 10, 10]
    assert doubling.levels_at(99) == 11 and doubling.decay_at(5) == 0
    assert ready(VE()).levels_at(77) == ready(VE(), first_levels=18).levels_at(77) == 18


def test_the_grid_is_karras_and_gaps_are_drawn_log_normally():
    method = ready(VE(), by_gap=True)
    sigma = VE().sigma(method.grid(18).double())
    i = torch.arange(18, dtype=torch.float64)
    karras = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma, karras, rtol=1e-5, atol=0)
    drawn = method.draw_levels(method.grid(18), batch_of(40000))
    mass = torch.erf((karras.log() + 1.1) / (2 * math.sqrt(2))).diff().neg()
    share = torch.bincount(drawn, minlength=17) / 40000
    assert (share - mass / mass.sum()).abs().max() < 0.01


def test_guidance_is_an_input_of_the_student_and_a_second_pass_of_the_teacher():
    method = ready(Flow(), "velocity", classes=8, low_guidance=1.0, high_guidance=4.0, solver="ddim")
    batch, x = batch_of(32, labelled=True), Draws(32, "x").normal(2)
    t, u, w = torch.full((32,), 0.8), torch.full((32,), 0.7), torch.linspace(1, 4, 32)
    expected = jump(Guided(method.teacher, w), x, t, u, batch.cond)
    torch.testing.assert_close(method.neighbour(x, t, u, x, batch, w), expected, atol=1e-6, rtol=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in method.student.parameters():
            p.normal_(std=0.3, generator=generator)
    model = Model(method.student, WORLD.shape, 8, method.samplings())
    before = method.student.calls
    one, three, default = (model.sample(16, guidance=g) for g in (1.0, 3.0, None))
    assert (one - three).abs().max() > 1e-3 and method.student.calls == before + 3
    assert torch.equal(default, model.sample(16, guidance=2.5)) and model.sampling().nfe(method.student) == 1


def test_samples_start_from_pure_noise_and_walk_trained_levels():
    method = ready(VE(), steps=3)
    ways = method.samplings()
    assert list(ways) == [3, 1, 2, 4] and all(w.times[0] == 1 and w.times[-1] == 0 for w in ways.values())
    trained = set(method.grid(18).tolist())
    assert all(t in trained for w in ways.values() for t in w.times[:-1])
    assert list(ready(VE(), levels=3).samplings()) == list(ready(VE(), levels=4).samplings()) == [1, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low_guidance": 3.0, "high_guidance": 2.0}, "low to high"),
        ({"source": "data", "high_guidance": 2.0}, "from data alone has none"),
        ({"levels": 4, "first_levels": 8}, "can't grow"),
        ({"levels": 4, "steps": 4}, "4 calls"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(StillhouseError, match=words):
        CM(**options)
