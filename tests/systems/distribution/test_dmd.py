import pytest
import torch
from torch import Tensor

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
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


def test_matching_moves_the_student_through_its_sample_alone():
    method = DMD(first_time=0.7, regression_weight=0.0)
    trainer(method)
    calls = method.fake.calls, method.teacher.calls
    loss = method.loss("student", batch_of())
    assert (method.fake.calls - calls[0], method.teacher.calls - calls[1]) == (1, 1)
    loss.backward()
    assert all(p.grad is None for p in method.fake.parameters())
    assert any(float(p.grad.abs().sum()) > 0 for p in method.student.parameters() if p.grad is not None)


def test_the_fake_learns_the_very_samples_of_the_students_turn():
    method = DMD(first_time=0.7, regression_weight=0.0)
    trainer(method)
    batch = batch_of()
    batch.player = "student"
    mine = method.samples(batch)
    batch.player = "fake"
    its = method.samples(batch)
    assert mine.requires_grad and not its.requires_grad and torch.equal(mine, its)


@pytest.mark.parametrize("process", [Flow(), VE()])
def test_times_stay_where_a_network_may_be_asked(process):
    method, seen = DMD(regression_weight=0.0), []
    trainer(method, process)
    method.teacher.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    assert torch.isfinite(method.loss("student", batch_of()))
    assert float(seen[0].min()) > process.t_min and float(seen[0].max()) < 1


def test_regression_reads_the_stored_noise_at_the_start_level():
    method = DMD(first_time=0.7, matching_weight=0.0, regression_weight=1.0)
    trainer(method)
    pair = {"eps": normal(8, seed=0).float(), "x": torch.zeros(8, 2)}
    pred = method.student(0.7 * pair["eps"], torch.full((8,), 0.7)).x0
    batch = batch_of(bank=lambda draws: pair)
    torch.testing.assert_close(method.loss("student", batch), pred.square().mean())


def test_pairs_are_ends_of_the_teachers_path():
    method = DMD(pairs=6)
    trainer(method)
    rows = method.bank_rows(Draws(6, 1), None)
    again = make_mixture().endpoint(Flow(), rows["eps"].double())
    torch.testing.assert_close(rows["x"].double(), again, atol=2e-3, rtol=0)


def test_student_moves_once_in_so_many_fake_steps():
    assert [DMD(fake_per_student=3).turns(i)[0] for i in range(4)] == ["student", "fake", "fake", "student"]
