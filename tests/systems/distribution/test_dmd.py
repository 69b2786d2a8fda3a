import pytest
import torch
from torch import Tensor

from stillhouse.api.runs import distill
from stillhouse.core.denoiser import Denoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Flow
from stillhouse.opening import load
from stillhouse.parts.gaps.score import dmd_gradient, surrogate_loss
from stillhouse.systems.distribution.dmd import DMD
from stillhouse.train.batch import Batch
from stillhouse.train.data import NoData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.layouts import make_mixture


def normal(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shifted(mean: float, process) -> Denoiser:
    world = make_mixture("random", modes=1, std=0.5, scale=0.0)
    world.means += mean
    return world.exact(process)


def test_direction_points_from_the_teacher_to_the_fake_and_is_normalised_by_the_teacher():
    process, x, eps = Flow(), torch.zeros(4, 2), torch.zeros(4, 2)
    t = torch.tensor([0.1, 0.3, 0.6, 0.9])
    real, fake = shifted(2.0, process), shifted(-1.0, process)
    x_t = process.noise(x, t, eps)
    d_real, d_fake = real(x_t, t).x0, fake(x_t, t).x0
    g = dmd_gradient(x, t, eps, real, fake)
    assert bool((g < 0).all())  # x - g lies on the teacher's side
    torch.testing.assert_close(g, (d_fake - d_real) / (x - d_real).abs().mean(1, keepdim=True))


def test_direction_is_the_score_difference():
    process = Flow()
    x, eps = normal(6, seed=0), normal(6, seed=1)
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    real, fake = shifted(2.0, process), shifted(-1.0, process)
    x_t = process.noise(x, t, eps)
    pred, mine = real(x_t, t), fake(x_t, t)
    a, s = (1 - t)[:, None], t[:, None]
    size = (x - pred.x0).abs().mean(1, keepdim=True)
    torch.testing.assert_close(mine.score - pred.score, a / s**2 * dmd_gradient(x, t, eps, real, fake) * size)


def test_where_the_two_agree_on_x_itself_nothing_moves():
    real = shifted(0.0, Flow())
    x = torch.zeros(3, 2)
    assert torch.equal(
        dmd_gradient(x, torch.full((3,), 0.5), torch.zeros(3, 2), real, real), torch.zeros(3, 2)
    )


def test_along_has_the_direction_as_its_gradient():
    x, g = normal(3, seed=0).requires_grad_(), normal(3, seed=1)
    torch.testing.assert_close(torch.autograd.grad(surrogate_loss(x, g), x)[0], g / x.numel())


def trainer(method: DMD, process=None, **recipe) -> Trainer:
    world, process = make_mixture(), process or Flow()
    kind = "edm" if isinstance(process, VE) else "velocity"
    student = world.network(process, 0, kind=kind, width=16, depth=1, classes=0)
    return Trainer(
        method,
        load(world.exact(process), shape=world.shape),
        NoData(world.shape),
        Recipe(batch=8, **recipe),
        student=student,
        quiet=True,
    )


def batch_of(turns=("student", "fake"), bank=None, rows: int = 8) -> Batch:
    return Batch(0, rows, (2,), None, None, turns, lambda name: Draws(rows, 0, name), bank)


def test_matching_costs_a_call_of_each_score():
    method = DMD(first_time=0.7, regression_weight=0.0)
    trainer(method)
    with count_calls(method.fake) as fake, count_calls(method.teacher) as real:
        method.loss("student", batch_of())
    assert (fake(), real()) == (1, 1)


def test_the_fake_learns_the_very_samples_of_the_students_turn():
    method = DMD(first_time=0.7, regression_weight=0.0)
    trainer(method)
    batch = batch_of()
    batch.player = "student"
    mine = method.samples(batch)
    batch.player = "fake"
    its = method.samples(batch)
    assert mine.requires_grad and not its.requires_grad and torch.equal(mine, its)


def test_pairs_are_ends_of_the_teachers_path():
    method = DMD(pairs=6)
    trainer(method)
    rows = method.bank_rows(Draws(6, 1), None)
    again = make_mixture().endpoint(Flow(), rows["eps"].double())
    torch.testing.assert_close(rows["x"].double(), again, atol=2e-3, rtol=0)


def test_student_moves_once_in_so_many_fake_steps():
    assert [DMD(fake_per_student=3).turns(i)[0] for i in range(4)] == ["student", "fake", "fake", "student"]


def test_pairs_are_stored_where_their_regression_counts():
    assert DMD(pairs=7).bank_size == 7 and DMD(pairs=7, regression_weight=0.0).bank_size == 0


# -- a perceptual distance of the user's own -------------------------------------------------------
FILE = """
import torch

class Blur(torch.nn.Module):
    \"\"\"Like LPIPS: a network's distance, (B, 1, 1, 1).\"\"\"
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([3.0, 1.0]))

    def forward(self, a, b):
        return ((a - b) * self.weight).square().sum(1).view(-1, 1, 1, 1)

blur = Blur()

def make():
    return Blur()

class Whole(Blur):
    def forward(self, a, b):
        return super().forward(a, b).mean()

class Torn(Blur):
    def __init__(self):
        raise ValueError("no weights here")
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def with_pairs(**options) -> tuple[DMD, Batch]:
    world, method = make_mixture(), DMD(**options)
    method.setup(world.exact(Flow()), world.network(Flow(), 0, width=8, depth=1, classes=0), world.shape)
    pairs = {"eps": normal(6, 0).float(), "x": normal(6, 1).float()}
    batch = Batch(
        0, 6, (2,), None, None, ("student",), lambda name: Draws(6, 0, name), bank=lambda draws: pairs
    )
    return method, batch


@pytest.mark.parametrize("name", ["Blur", "blur", "make"])
def test_a_perceptual_distance_takes_the_place_of_the_squared_one(name, file):
    plain, batch = with_pairs(first_time=0.7)
    method, _ = with_pairs(first_time=0.7, perceptual=f"{file}:{name}")
    x = plain.student(0.7 * batch.stored()["eps"], torch.full((6,), 0.7)).x0
    gap = x - batch.stored()["x"]
    assert torch.allclose(plain.regression(batch), gap.square().mean())
    loss = method.regression(batch)
    assert torch.allclose(loss, (gap * torch.tensor([3.0, 1.0])).square().sum(1).mean())
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.student.parameters())
    assert all(not p.requires_grad and p.grad is None for p in method.gap.module.parameters())
    assert method.describe()["options"]["perceptual"] == f"{file}:{name}"
    assert not any("gap" in entry or "perceptual" in entry for entry, _ in method.modules())


def test_a_perceptual_module_in_python(tmp_path):
    class Gap(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().sum(1)

    student = distill(
        "mixture", "dmd", perceptual=Gap(), pairs=8, pair_steps=2, first_time=0.7, iterations=2, batch=4,
        quiet=True, out=tmp_path / "run",
    )  # fmt: skip
    assert student.info["options"]["perceptual"] == "Gap"
    assert "perceptual: Gap" in (tmp_path / "run/run.yaml").read_text()
    assert DMD().describe()["options"]["perceptual"] is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nothing", "no 'nothing'"),
        ("Torn", "ValueError: no weights here"),
        ("torch", "is a module, called with two batches"),
    ],
)
def test_what_is_no_perceptual_distance(name, what, file):
    with pytest.raises(StillhouseError, match=what):
        DMD(perceptual=f"{file}:{name}")


def test_more_that_is_no_perceptual_distance(file):
    for name, what in (
        ("lpips", "file.py:function"),
        ("gone.py:Blur", "no file 'gone.py'"),
        (3, "not a int"),
    ):
        with pytest.raises(StillhouseError, match=what):
            DMD(perceptual=name)
    method, batch = with_pairs(first_time=0.7, perceptual=f"{file}:Whole")
    with pytest.raises(StillhouseError, match=r"one number a sample, a tensor of shape \(6,\), not \(\)"):
        method.regression(batch)
