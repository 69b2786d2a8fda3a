import math

import pytest
import torch
from torch.nn import functional as F

from stillhouse.models.scenes import Gaussians, Plain, Points, Rendering
from stillhouse.models.scenes.camera import Lens, axes, orbit, pixel_centres, pixel_corners
from stillhouse.parts.scenes.noise_field import (
    PlainField,
    PointField,
    SurfaceField,
    chart,
    field_for,
    fixed_per_camera,
)

torch.set_num_threads(1)
SIDE, FIELDS = 16, 200
LENS = Lens(1.0)


def ball(place, radius=0.8):
    """Depth of a ball at the origin, and where its pixels lie in space."""
    ones, far = torch.ones(1, SIDE * SIDE), place.norm(dim=1)[:, None]
    ray = F.normalize(LENS.point(place, pixel_centres(SIDE, place), far * ones) - place[:, None], dim=-1)
    along = (ray * place[:, None]).sum(-1)
    inside = along**2 - (place * place).sum(-1)[:, None] + radius**2
    points = place[:, None] + (-along - inside.clamp_min(0).sqrt())[..., None] * ray
    hit = (inside > 0).float()
    return Rendering(
        ray, (hit).reshape(1, SIDE, SIDE), (LENS.see(place, points)[1] * hit).reshape(1, SIDE, SIDE)
    ), points


def seen_by(field, place, seen):
    """What one camera sees of every one of the independent fields, (FIELDS, 3, SIDE, SIDE)."""
    many = Rendering(seen.rgb, seen.opacity.expand(FIELDS, -1, -1), seen.depth.expand(FIELDS, -1, -1))
    return field(torch.arange(FIELDS), place.expand(FIELDS, 3), many)


@pytest.fixture(scope="module")
def surface():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SurfaceField(FIELDS, LENS, (3, SIDE, SIDE))


@pytest.fixture(scope="module")
def views(surface):
    made = {}
    for turn in (0.0, 10.0, 45.0, 180.0):
        place = orbit(1, 4.0, (15.0,), turn=turn)
        seen, points = ball(place)
        made[turn] = place, seen, points, seen_by(surface, place, seen)
    return made


def test_every_pixel_is_standard_normal(views):
    for _, seen, _, eps in views.values():
        variance = eps.var((0, 1))  # 600 numbers a pixel: a deviation of 0.06
        assert variance[seen.opacity[0] > 0].mean() == pytest.approx(1, abs=0.02)
        assert 0.75 < variance.min() and variance.max() < 1.3
        assert eps.mean((0, 1)).abs().max() < 0.2


def test_neighbouring_pixels_are_independent(views):
    _, seen, _, eps = views[0.0]
    hit = seen.opacity[0] > 0
    for step, both in (((1, 0), hit[:-1] & hit[1:]), ((0, 1), hit[:, :-1] & hit[:, 1:])):
        rest = eps[:, :, step[0] :, step[1] :]
        c = (eps[:, :, : SIDE - step[0], : SIDE - step[1]] * rest).mean((0, 1))[both]
        assert c.abs().max() < 0.2 and c.mean().abs() < 0.02
    colours = torch.corrcoef(eps.transpose(0, 1).flatten(1))
    assert (colours - torch.eye(3)).abs().max() < 0.02


def correlation(views, turn):
    """Of what two cameras see at one place of the ball, in the nearest pixels."""
    _, seen, points, eps = views[0.0]
    place, _, _, other = views[turn]
    at, depth = LENS.see(place, points)
    nearest = F.grid_sample(
        other,
        (at * torch.tensor([1.0, -1.0])).reshape(1, SIDE, SIDE, 2).expand(FIELDS, -1, -1, -1),
        mode="nearest",
        align_corners=False,
    )
    visible = (seen.opacity[0].flatten() > 0) & (depth[0] < 3.6)
    return (nearest * eps).mean((0, 1)).flatten()[visible].mean().item()


def test_one_place_has_one_noise_in_all_views(views):
    # pixels that are half a pixel apart at random share (3/4)^2 of what they show
    assert correlation(views, 0.0) == pytest.approx(1, abs=0.02)
    assert correlation(views, 10.0) > 0.45 and correlation(views, 45.0) > 0.3


def test_what_two_cameras_see_of_other_places_is_unrelated(views):
    front, behind = views[0.0][3], views[180.0][3]
    inner = (slice(None), slice(None), slice(6, 10), slice(6, 10))
    assert (front[inner] * behind[inner]).mean((0, 1)).abs().max() < 0.2


def test_beside_the_object_one_fixed_picture_is_seen(surface, views):
    for _, seen, _, eps in views.values():
        off = (seen.opacity[0] == 0).expand_as(eps)
        assert torch.equal(eps[off], surface.behind[off])


def test_the_chart_preserves_area_and_keeps_the_hemispheres_apart():
    points = torch.randn(20000, 3, generator=torch.Generator().manual_seed(0))
    for flip, upper in ((False, points[:, 2] > 0), (True, points[:, 2] < 0)):
        at = chart(points[upper], flip)
        assert at.abs().max() <= 1
        cells = ((at + 1) * 2).long().clamp(0, 3)
        counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16) / len(at) * 16
        assert (counts - 1).abs().max() < 0.12  # 625 points a cell: a deviation of 0.04
    assert chart(torch.tensor([[0.0, 0.0, -1.0]])).abs().max() == pytest.approx(math.sqrt(2))


def test_the_chart_in_numbers():
    root = math.sqrt(0.5)
    for point, place in (
        ((0, 0, 2), (0, 0)),
        ((1, 0, 0), (1, 0)),
        ((0, -3, 0), (0, -1)),
        ((1, 1, 0), (1, 1)),
        ((-1, 1, 0), (-1, 1)),
        ((math.cos(math.pi / 8), math.sin(math.pi / 8), 0), (1, 0.5)),
        ((math.sin(math.pi / 8), -math.cos(math.pi / 8), 0), (0.5, -1)),
        ((math.sin(math.pi / 3), 0, 0.5), (root, 0)),  # 1 - cos 60° = 1/2
    ):
        up = torch.tensor([point], dtype=torch.float64)
        assert chart(up)[0].tolist() == pytest.approx(place, abs=1e-6)
        down = up * torch.tensor([1, 1, -1])
        torch.testing.assert_close(chart(down, flip=True), chart(up))


def inside(corners, texels):
    """The whole places 0 … texels - 1 in a convex four-sided figure, corner by corner to the left."""
    found = set()
    for i in range(texels):
        for j in range(texels):
            turns = [
                (bx - ax) * (j - ay) - (by - ay) * (i - ax)
                for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True)
            ]
            if all(v > 0 for v in turns) or all(v < 0 for v in turns):
                found.add((i, j))
    return found


@pytest.mark.parametrize(
    "corners",
    [
        [(2.3, 1.2), (5.6, 1.4), (5.2, 4.7), (2.1, 4.1)],
        [(2.3, 1.2), (2.1, 4.1), (5.2, 4.7), (5.6, 1.4)],  # the other way round
        [(-1.7, -0.6), (1.8, -0.9), (2.2, 2.4), (-1.2, 1.3)],  # partly off the chart
        [(5.4, 5.3), (9.2, 4.8), (9.6, 9.1), (5.7, 8.3)],
        [(3.1, 3.2), (3.4, 3.1), (3.3, 3.6), (3.2, 3.5)],  # between the texels
    ],
)
def test_a_pixel_covers_the_texels_between_its_corners(corners):
    field = SurfaceField(1, LENS, (3, 4, 4), texels=8)
    quad = (torch.tensor([corners], dtype=torch.float64) + 0.5) * 2 / 8 - 1
    covered, texel = field._covered(quad)
    numbers = texel[covered].tolist()
    assert sorted(numbers) == sorted(8 * i + j for i, j in inside(corners, 8))


def test_texels_are_twice_the_pictures_unless_given():
    assert SurfaceField(2, LENS, (3, 4, 4)).noise.shape == (2, 2, 64, 3)
    assert SurfaceField(2, LENS, (3, 4, 4), texels=5).noise.shape == (2, 2, 25, 3)


def test_corners_lie_at_the_mean_depth_of_the_pixels_around_them():
    field, side = SurfaceField(1, LENS, (3, 3, 3)), 3
    place = torch.tensor([[4.0, 0.0, 0.0]])
    depth = torch.arange(9.0).reshape(1, 3, 3) / 10 + 3
    hit = torch.tensor([[[0, 1, 1], [1, 1, 0], [0, 0, 0]]]).bool()
    mean = torch.full((4, 4), 4.0)  # that of the origin, where nothing is seen
    for row in range(4):
        for column in range(4):
            near = [
                float(depth[0, i, j])
                for i in (row - 1, row)
                for j in (column - 1, column)
                if 0 <= i < 3 and 0 <= j < 3 and hit[0, i, j]
            ]
            mean[row, column] = sum(near) / len(near) if near else 4.0
    seen = Rendering(torch.zeros(1, 9, 3), hit.float(), depth * hit)
    made = field._corners(place, seen, hit.flatten(1)).reshape(side, side, 4, 3)
    points = LENS.point(place, pixel_corners(side, place), mean.flatten()[None]).reshape(4, 4, 3)
    around = ((0, 0), (0, 1), (1, 1), (1, 0))
    for row in range(3):
        for column in range(3):
            expected = torch.stack([points[row + i, column + j] for i, j in around])
            torch.testing.assert_close(made[row, column], expected)


@pytest.mark.parametrize("elevation", [0.0, 15.0, 60.0, -35.0])
def test_every_pixel_is_the_sum_of_its_texels_over_the_root_of_their_number(elevation):
    """At the corners of the charts, on the equator at 45 degrees, as everywhere."""
    field, place = SurfaceField(1, LENS, (1, SIDE, SIDE), texels=64), orbit(1, 4.0, (elevation,))
    field.noise.fill_(1)
    field.behind.fill_(-1)
    seen, _ = ball(place)
    shown = field(torch.tensor([0]), place, seen)[0, 0]
    hit = seen.opacity[0] > 0
    assert (shown[~hit] == -1).all() and (shown[hit] > 0).all()
    count = shown[hit] ** 2
    torch.testing.assert_close(count, count.round(), rtol=1e-5, atol=1e-4)
    assert count.min() >= 1 and count.max() > 4


def test_a_pixel_may_have_one_texel():
    field, place = SurfaceField(1, LENS, (1, SIDE, SIDE), texels=14), orbit(1, 4.0, (15.0,))
    field.noise.fill_(1)
    field.behind.fill_(-1)
    shown = field(torch.tensor([0]), place, ball(place)[0])
    assert int((shown == 1).sum()) > 20


def test_a_point_shows_the_projection_of_one_vector():
    field, places = field_for(Points(500, 2), (4,)), orbit(3, 1.0, (15.0, 40.0))
    assert isinstance(field, PointField)
    field.noise.copy_(torch.randn(field.noise.shape, generator=torch.Generator().manual_seed(0)))
    which = torch.arange(500)
    eps = [field(which, p.expand(500, 3), None) for p in places]
    torch.testing.assert_close(eps[1].reshape(500, 2, 2)[7, 1], axes(places[1:2])[0, :2] @ field.noise[7, 1])
    assert torch.cov(torch.cat([e.reshape(-1, 2) for e in eps]).T).sub(torch.eye(2)).abs().max() < 0.1
    # two views share the part of the vector that both see: P Q^T
    shared = axes(places[:1])[0, :2] @ axes(places[1:2])[0, :2].T
    found = eps[0].reshape(-1, 2).T @ eps[1].reshape(-1, 2) / 1000
    assert (found - shared).abs().max() < 0.12


def test_refreshing_keeps_the_variance_and_forgets_slowly():
    field = field_for(Plain((3, 8, 8), 100), (3, 8, 8))
    assert isinstance(field, PlainField)
    before = field.noise.clone()
    for step in range(51):
        field.refresh(step, 0.02, torch.Generator().manual_seed(step))
    assert field.noise.var() == pytest.approx(1, abs=0.03)
    assert (field.noise * before).mean() == pytest.approx(0.98**25, abs=0.03)


def test_a_field_is_refreshed_once_an_iteration_and_never_without_gamma():
    field = field_for(Plain((4,), 2), (4,))
    start = field.noise.clone()
    field.refresh(1, 0.0, torch.Generator())
    assert torch.equal(field.noise, start)
    field.refresh(2, 0.5, torch.Generator())
    once = field.noise.clone()
    field.refresh(2, 0.5, torch.Generator().manual_seed(9))
    assert torch.equal(field.noise, once) and not torch.equal(once, start)


def test_a_cameras_own_noise_is_always_the_same_and_nobody_elses():
    places, which = orbit(4, 4.0)[[0, 1, 0, 2]], torch.tensor([0, 0, 0, 1])
    eps = fixed_per_camera(3, 2, which, places, (3, 32, 32))
    assert torch.equal(eps[0], eps[2]) and torch.equal(
        eps, fixed_per_camera(3, 2, which, places, (3, 32, 32))
    )
    assert torch.equal(
        eps[3], fixed_per_camera(3, 2, which[3:], places[3:], (3, 32, 32))[0]
    )  # whoever else is in the batch
    for a, b in ((0, 1), (0, 3), (1, 3)):
        assert (eps[a] * eps[b]).mean().abs() < 0.07
    assert not torch.equal(eps, fixed_per_camera(4, 2, which, places, (3, 32, 32)))
    assert eps.var() == pytest.approx(1, abs=0.05)


def test_a_scene_that_shows_nothing_shows_the_noise_behind():
    net = Gaussians(2, 3)
    with torch.no_grad():
        net.opacity.fill_(-20)
    field = field_for(net, (3, 8, 8))
    seen = net.render(torch.tensor([1]), torch.tensor([[4.0, 0.0, 0.0]]), 8)
    assert torch.equal(field(torch.tensor([1]), torch.tensor([[4.0, 0.0, 0.0]]), seen), field.behind[1:])
