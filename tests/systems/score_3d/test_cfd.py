import pytest
import torch

from stillhouse.api.evaluate import exact_teacher
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models.scenes import Gaussians, Plain, Points, Voxels
from stillhouse.models.scenes.camera import axes
from stillhouse.systems.score_3d.cfd import CFD
from stillhouse.train.batch import Batch
from stillhouse.train.data import NoData, Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.mixture.layouts import make_mixture
from stillhouse.worlds.objects.world import Objects

torch.set_num_threads(1)


def trainer_of(world, steps=4, batch=6, student=None, seed=0, **options):
    method, teacher = CFD(**options), exact_teacher(world, Flow())
    data = (
        Prompts(world.shape, world.condition(world.balanced_labels(48)))
        if world.cond_kind
        else NoData(world.shape)
    )
    student = student or method.make_student(teacher.denoiser)
    return Trainer(
        method, teacher, data, Recipe(steps=steps, batch=batch, seed=seed, ema=0), student=student, quiet=True
    )


def batch_of(method, world, rows=6, step=0, labels=None):
    labels = world.balanced_labels(rows) if labels is None else labels
    batch = Batch(
        step,
        rows,
        world.shape,
        None,
        world.condition(labels),
        ("student",),
        lambda name: Draws(rows, step, name),
    )
    batch.player = "student"
    return batch


@pytest.fixture(scope="module")
def cube():
    return Objects(kind="cube")


@pytest.fixture(scope="module")
def solids():
    return Objects()


def test_the_gradient_of_a_point_is_what_its_cameras_ask(cube):
    method = trainer_of(cube, scene="points", size=1, scenes=2, gamma=0.0).method
    batch = batch_of(method, cube)
    with torch.no_grad():
        method.student.net.centre.copy_(
            0.5 * torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
        )
    method.student.requires_grad_(True)
    method.loss("student", batch).backward()
    x, eps = method.views(batch)
    t = torch.full((6,), 0.95)
    step = x - method.teacher(method.process.noise(x, t, eps), t, batch.cond).x0
    in_space = torch.einsum("bi,bij->bj", step, axes(batch.cond["features"])[:, :2]) / 6
    for scene in (0, 1):
        torch.testing.assert_close(
            method.student.net.centre.grad[scene, 0], in_space[scene::2].sum(0).detach()
        )


def test_consistent_views_follow_one_flow_in_space(cube):
    method = trainer_of(cube, scene="points", size=1, scenes=1, gamma=0.0).method
    _, eps = method.views(batch_of(method, cube, rows=8))
    torch.testing.assert_close(eps, axes(cube.cameras)[:, :2] @ method.field.noise[0, 0])


def test_rows_show_the_scenes_in_turn_and_a_batch_in_parts_counts_on(cube):
    method = trainer_of(cube, scene="points", size=1, scenes=4, gamma=0.0).method
    with torch.no_grad():
        method.student.net.centre.copy_(torch.arange(12.0).reshape(4, 1, 3))
    cond = cube.condition(torch.zeros(6, dtype=torch.long))
    whole = Batch(0, 6, (2,), None, cond, ("student",), lambda name: Draws(6, 0, name), player="student")
    part = {"features": cond["features"][3:]}
    second = Batch(
        0,
        3,
        (2,),
        None,
        part,
        ("student",),
        lambda name: Draws(3, 0, name, rank=1, world=2),
        player="student",
    )
    x, eps = method.views(whole)
    assert torch.equal(x[0], x[4]) and torch.equal(x[1], x[5]) and not torch.equal(x[0], x[1])
    for a, b in zip(method.views(second), (x, eps), strict=True):
        assert torch.equal(a, b[3:])


@pytest.mark.parametrize(
    "noise,moves,differs", [("consistent", False, False), ("per-camera", False, True), ("fresh", True, True)]
)
def test_what_stays_and_what_changes_in_each_noise_mode(solids, noise, moves, differs):
    method = trainer_of(solids, noise=noise, size=20, gamma=0.0).method
    twice = torch.tensor([3, 3, 7, 7, 1, 1])
    (_, first), (_, later) = (
        method.views(batch_of(method, solids, step=step, labels=twice)) for step in (0, 1)
    )
    assert torch.equal(first, later) != moves
    assert torch.equal(first[0], first[1]) == (noise != "fresh")
    # behind the object the consistent noise is one picture for all cameras
    assert torch.equal(first[0, :, 0, 0], first[2, :, 0, 0]) != differs


def test_gamma_refreshes_once_an_iteration(cube):
    method = trainer_of(cube, scene="points", size=1, gamma=0.1).method
    before = method.field.noise.clone()
    method.views(batch_of(method, cube, step=0))
    assert torch.equal(before, method.field.noise)
    method.views(batch_of(method, cube, step=1))
    after = method.field.noise.clone()
    method.views(batch_of(method, cube, step=1))
    assert not torch.equal(before, after) and torch.equal(after, method.field.noise)


def test_time_falls_in_the_course_of_the_run_or_is_random(cube):
    method = trainer_of(cube, steps=5, scene="points", size=1).method
    found = [method.time(batch_of(method, cube, step=step))[0].item() for step in range(5)]
    assert found == pytest.approx([0.95, 0.775, 0.6, 0.425, 0.25])
    for steps, wanted in ((2, [0.95, 0.25]), (1, [0.95])):
        method = trainer_of(cube, steps=steps, scene="points", size=1).method
        found = [method.time(batch_of(method, cube, step=step))[0].item() for step in range(steps)]
        assert found == pytest.approx(wanted)
    random = trainer_of(cube, scene="points", size=1, times="uniform").method
    t = random.time(batch_of(random, cube, rows=400))
    assert t.min() >= 0.25 and t.max() <= 0.95 and t.std() == pytest.approx(0.7 / 12**0.5, abs=0.02)


def test_students_are_scenes_of_the_asked_kind():
    teacher = exact_teacher(make_mixture(), Flow()).denoiser
    for scene, kind in (("gaussians", Gaussians), ("voxels", Voxels), ("points", Points)):
        student = CFD(scene=scene, size=6, scenes=2).make_student(teacher)
        assert isinstance(student.net, kind) and student.net.scenes == 2 and student.process == Flow()
    assert CFD(extent=1.5).make_student(teacher).net.lens.extent == 1.5


def test_a_network_that_is_no_scene_is_refused():
    with pytest.raises(StillhouseError, match="no scene"):
        trainer_of(make_mixture(), student=make_mixture().network(Flow()))


def test_what_does_not_fit_is_said(cube):
    with pytest.raises(StillhouseError, match="0.6 is not below 0.4"):
        CFD(first_time=0.4, last_time=0.6)
    assert CFD(first_time=0.4, last_time=0.4).last_time == 0.4
    with pytest.raises(StillhouseError, match="seen as pictures"):
        trainer_of(cube, scene="gaussians")


def test_plain_samples_walk_to_modes_of_their_own():
    world = make_mixture()
    student = Denoiser(Plain((2,), 64), Flow(), "x0")
    trainer_of(world, steps=250, batch=64, student=student, gamma=0.0, last_time=0.1).fit()
    x = student.net.sample.detach()
    assert world.off_mode(x) < 0.15 and world.modes_held(x) >= 7


@pytest.mark.parametrize("scene,size", [("gaussians", 24), ("voxels", 6)])
def test_pictures_of_an_object_come_nearer_to_one(solids, scene, size):
    trainer = trainer_of(solids, steps=40, batch=4, scene=scene, size=size)
    labels = solids.balanced_labels(12)
    cond, blank = solids.condition(labels), (torch.zeros(12, 3, 16, 16), torch.ones(12))

    def psnr():
        with torch.no_grad():
            return solids.measure(trainer.method.student(*blank, cond).x0, labels)["object_psnr"]

    before = psnr()
    trainer.fit()
    assert psnr() > before + 1


def test_a_fixed_seed_gives_a_fixed_object_and_another_seed_another(cube):
    made = [trainer_of(cube, steps=30, scene="points", size=1, scenes=6, seed=seed) for seed in (0, 0, 1)]
    for trainer in made:
        trainer.fit()
    a, b, c = (trainer.method.student.net.centre for trainer in made)
    assert torch.equal(a, b) and not torch.allclose(a, c, atol=0.05)
