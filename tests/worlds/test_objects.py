import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Cosine, Flow
from stillhouse.forms.views import Clips
from stillhouse.models.scenes.camera import axes
from stillhouse.worlds.base import get_world
from stillhouse.worlds.objects.solids import body, nose
from stillhouse.worlds.objects.world import CORNER, STD

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world():
    return get_world("objects")


@pytest.fixture(scope="module")
def cube():
    return get_world("objects", kind="cube")


def test_there_are_32_objects_from_12_cameras(world):
    assert world.views.shape == (32, 12, 3, 16, 16) and len(world.names) == 32
    assert -1 <= world.views.min() and world.views.max() == 1
    assert world.names[0] == "red ball with a black nose"
    x, y = world.data()
    assert len(x) == 384 and torch.equal(x[12 * 5 + 3], world.views[5, 3]) and y[12 * 5 + 3] == 3
    assert world.cond_kind == "camera" and world.classes == 0


def test_distances_are_right_where_they_are_known():
    p = torch.tensor([[1.5, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    assert body("ball")(p).tolist() == pytest.approx([0.88, 1.38, -0.62])
    assert body("box")(p).tolist() == pytest.approx([1.0, 1.5, -0.5])
    assert body("drum")(p).tolist() == pytest.approx([1.0, 1.4, -0.5])
    assert body("cone")(torch.tensor([[0.0, 0.0, 0.75], [0.0, 0.0, -0.6]])).tolist() == pytest.approx(
        [0, 0], abs=1e-6
    )
    assert nose(torch.tensor([[0.62, 0.0, 0.05]])).item() == pytest.approx(-0.26)


def test_no_distance_is_longer_than_the_way():
    p = 1.5 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 0.75
    for name in ("ball", "box", "drum", "cone"):
        d = body(name)
        grad = torch.func.vmap(torch.func.grad(lambda q, d=d: d(q)))(p).norm(dim=1)
        assert grad.max() < 1 + 1e-4, name


def test_the_nose_is_seen_from_the_front_alone(world):
    black, pink = world.views[0], world.views[1]
    differ = (black - pink).abs().flatten(1).sum(1)
    assert differ[0] > 5 and differ[6] == 0  # cameras 0 and 6 face each other


def test_a_camera_is_told_by_its_place(world):
    cond = world.condition(torch.tensor([3, 0]))
    assert torch.equal(cond["features"], world.cameras[[3, 0]])
    assert world.balanced_labels(14).tolist() == [*range(12), 0, 1]
    with pytest.raises(StillhouseError, match="0 … 11, not 12"):
        world.condition(torch.tensor([12]))


def test_the_denoiser_is_the_softmax_over_what_the_camera_sees(world):
    x, t = Draws(3, 0).normal(3, 16, 16), torch.tensor([0.3, 0.6, 0.9])
    labels = torch.tensor([4, 0, 11])
    pred = world.exact(Flow())(x, t, world.condition(labels)).x0
    for i, label in enumerate(labels):
        views, alpha, sigma = world.views[:, label].flatten(1).double(), 1 - t[i].double(), t[i].double()
        weight = (-0.5 * (x[i].flatten().double() - alpha * views).square().sum(1) / sigma**2).softmax(0)
        torch.testing.assert_close(pred[i].flatten().double(), weight @ views, atol=1e-4, rtol=1e-4)


def test_an_unknown_camera_is_refused(world):
    with pytest.raises(StillhouseError, match="has 12 cameras"):
        world.exact(Flow())(
            torch.zeros(1, 3, 16, 16), torch.ones(1), {"features": torch.tensor([[1.0, 2.0, 3.0]])}
        )


def test_the_cube_is_seen_in_closed_form(cube):
    assert cube.shape == (2,) and cube.corners.abs().unique().tolist() == [CORNER]
    process, label = Cosine(), torch.tensor([5])
    frame = axes(cube.cameras[label].double())[0, :2]
    x, t = torch.tensor([[0.4, -0.7]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    means, v = cube.corners @ frame.T, alpha**2 * STD**2 + sigma**2
    share = (-0.5 * (x - alpha * means).square().sum(1) / v).softmax(0)
    mean = share @ (means + alpha * STD**2 / v * (x - alpha * means))
    pred = cube.exact(process)(x, t, cube.condition(label)).x0
    torch.testing.assert_close(pred[0], mean, atol=1e-5, rtol=1e-5)


def test_samples_come_from_where_they_are_asked(world, cube):
    for place in (world, cube):
        labels = torch.tensor([2, -1, 5, 2] * 50)
        x, y = place.sample_data(200, Draws(200, 1), labels)
        assert torch.equal(y[labels >= 0], labels[labels >= 0])
        error = (place.views[:, y] - x).flatten(2).square().sum(2).amin(0)
        assert (error < (1e-9 if place is world else 9 * 2 * STD**2)).all()


def test_one_object_is_told_from_a_mixture_of_all(world):
    labels, mixed = world.balanced_labels(12), torch.arange(12)
    whole, torn = world.measure(world.views[9], labels), world.measure(world.views[mixed * 2, mixed], labels)
    assert whole["agree"] == 1 and whole["object_psnr"] > 90
    assert torn["agree"] < 0.4 and torn["object_psnr"] < 20 < torn["view_psnr"]
    grey = world.measure(torch.zeros(12, 3, 16, 16), labels)
    assert grey["view_psnr"] < 8


def test_the_floor_is_one_true_object(world, cube):
    assert world.floor(24) == {
        "object_psnr": pytest.approx(106, abs=1),
        "view_psnr": pytest.approx(106, abs=1),
        "agree": 1.0,
    }
    assert cube.floor(400)["off_mode"] < 0.04


def test_half_a_blend_has_the_psnr_of_its_error(world):
    x = world.views[9] + 0.2
    assert world.measure(x, world.balanced_labels(12))["object_psnr"] == pytest.approx(20.0, abs=1e-3)


def test_points_near_a_corner_are_held(cube):
    points = (
        cube.corners
        + torch.tensor([0.44, 0, 0]) * (torch.arange(8) < 6)[:, None]
        + torch.tensor([0.46, 0, 0]) * (torch.arange(8) >= 6)[:, None]
    )
    assert cube.held(points) == 0.75
    x, labels = cube.sample_data(2000, Draws(2000, 3))
    assert cube.measure(x, labels)["off_mode"] == pytest.approx(0.011, abs=0.01)  # exp(-9 / 2)
    assert not isinstance(cube.display.view(x, labels), Clips)


def test_a_turn_table_goes_round(world):
    labels = torch.tensor([5, 0, 3])
    film = world.display.view(world.views[4, labels], labels).clips
    assert torch.equal(film, world.views[4, [0, 3, 5]][None])


@pytest.mark.parametrize("options", [{"kind": "teapots"}, {"cameras": 1}, {"side": 4}])
def test_bad_options_are_refused(options):
    with pytest.raises(StillhouseError):
        get_world("objects", **options)


def test_a_network_hears_the_camera(world):
    net, generator = world.network(Flow(), channels=(8, 16)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    x, t = torch.zeros(2, 3, 16, 16), torch.full((2,), 0.5)
    pred = net(x, t, world.condition(torch.tensor([0, 6]))).x0
    assert not torch.allclose(pred[0], pred[1], atol=1e-3)
