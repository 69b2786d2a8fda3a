import math

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.io.weights import load_denoiser, save_denoiser
from stillhouse.models import build_model
from stillhouse.models.scenes import Gaussians, Plain, Points, Voxels
from stillhouse.models.scenes.base import passing
from stillhouse.models.scenes.camera import Lens, axes, orbit, pixel_centres, pixel_corners
from stillhouse.models.scenes.gaussians import BLUR, rotations

torch.set_num_threads(1)
PLACES = orbit(5, 3.0, (10.0, 40.0), turn=7.0).double()


def cloud(n=6, seed=0):
    return 0.6 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(colour=(1.0, 0.0, 0.0), centre=(0.0, 0.0, 0.0), size=0.1, opacity=8.0, count=1, **lens):
    """Equal Gaussians in a line away from the front camera, unless only one."""
    net = Gaussians(count=count, background=-1.0, **lens)
    with torch.no_grad():
        net.centre.copy_(torch.tensor(centre).expand(1, count, 3))
        net.size.fill_(math.log(size))
        net.colour.copy_(torch.logit(torch.tensor(colour), eps=1e-6).expand(1, count, 3))
        net.opacity.fill_(opacity)
    return net.requires_grad_(False)


# -- cameras ---------------------------------------------------------------------------------------
def test_axes_are_a_right_handed_frame_with_z_up():
    frame = axes(PLACES)
    torch.testing.assert_close(frame @ frame.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    assert torch.allclose(torch.linalg.det(frame), torch.ones(5, dtype=torch.float64))
    assert (frame[:, 1, 2] > 0).all() and (frame[:, 0, 2].abs() < 1e-12).all()
    right, up, back = axes(torch.tensor([[2.0, 0.0, 0.0]]))[0]
    assert right.tolist() == [0, 1, 0] and up.tolist() == [0, 0, 1] and back.tolist() == [1, 0, 0]
    assert torch.isfinite(axes(torch.tensor([[0.0, 0.0, 2.0]]))).all()


@pytest.mark.parametrize("pinhole", [True, False])
def test_what_is_seen_lies_where_it_was(pinhole):
    lens, points = Lens(1.3, pinhole), cloud().expand(5, 6, 3)
    at, depth = lens.see(PLACES, points)
    torch.testing.assert_close(lens.point(PLACES, at, depth), points)
    slope = torch.func.jacrev(lambda p: lens.see(PLACES[:1], p[None, None])[0][0, 0])(points[0, 0])
    torch.testing.assert_close(lens.slope(PLACES, points)[0, 0], slope)


def test_a_pinhole_enlarges_what_is_near_and_the_rest_does_not():
    near = torch.tensor([[[1.0, 0.5, 0.0]]])
    place = torch.tensor([[4.0, 0.0, 0.0]])
    assert Lens(1.0, True).see(place, near)[0][0, 0, 0] == pytest.approx(0.5 * 4 / 3)
    assert Lens(1.0, False).see(place, near)[0][0, 0, 0] == pytest.approx(0.5)


def test_the_first_pixel_is_at_the_top_left():
    reference = torch.zeros(1)
    assert pixel_centres(4, reference)[0].tolist() == [-0.75, 0.75] and pixel_centres(4, reference)[
        1
    ].tolist() == [
        -0.25,
        0.75,
    ]
    assert pixel_corners(4, reference)[0].tolist() == [-1, 1] and pixel_corners(4, reference)[
        -1
    ].tolist() == [1, -1]


def test_an_orbit_needs_places():
    with pytest.raises(StillhouseError, match="one place"):
        orbit(0)


# -- Gaussians -------------------------------------------------------------------------------------
def test_a_round_gaussian_is_its_projection_in_closed_form():
    side, size, place = 16, 0.2, torch.tensor([[3.0, 0.0, 0.0]])
    seen = one(size=size, centre=(0.0, 0.25, 0.0), pinhole=False).render(torch.tensor([0]), place, side)
    away = pixel_centres(side, place) - torch.tensor([0.25, 0.0])
    variance = size**2 + BLUR * (2 / side) ** 2
    alpha = torch.sigmoid(torch.tensor(8.0)) * torch.exp(-0.5 * away.square().sum(1) / variance)
    torch.testing.assert_close(seen.opacity.flatten(), alpha, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.rgb[0, 0].flatten(), 2 * alpha - 1, atol=1e-4, rtol=0)
    assert seen.depth[0, 8, 10] == pytest.approx(3.0, abs=1e-4)


def test_the_nearer_one_hides_the_other_from_either_side():
    net = one(count=2, size=0.3)
    net.centre[0, :, 0] = torch.tensor([0.5, -0.5])
    net.colour[0] = torch.tensor([[9.0, -9.0, -9.0], [-9.0, -9.0, 9.0]])
    front, rear = net.render(
        torch.zeros(2, dtype=torch.long), torch.tensor([[4.0, 0, 0], [-4.0, 0, 0]]), 9
    ).rgb[:, :, 4, 4]
    assert front[0] > 0.9 and front[2] < -0.9 and rear[2] > 0.9 and rear[0] < -0.9


def test_light_passes_what_is_before():
    alpha = torch.tensor([[0.5, 0.2, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(passing(alpha, 1), torch.tensor([[1.0, 0.5, 0.4]], dtype=torch.float64))


def test_rotations_are_rotations():
    turn = rotations(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    quarter = rotations(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    torch.testing.assert_close(
        quarter @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0
    )


# -- voxels ----------------------------------------------------------------------------------------
def fog(density, pinhole=True, steps=1000):
    """A cube of even density, absorbing ``density`` per unit of length."""
    net = Voxels(edge=2, steps=steps, pinhole=pinhole, background=-1.0).double()
    with torch.no_grad():
        net.density.fill_(math.log(math.expm1(density / 4)) / 2)
    return net.requires_grad_(False)


@pytest.mark.parametrize("pinhole", [True, False])
def test_light_is_absorbed_along_the_ray_and_not_along_the_cameras_axis(pinhole):
    place, side = torch.tensor([[4.0, 0.0, 0.0]]).double(), 4
    at = pixel_centres(side, place)  # all rays enter the front face and leave by the rear one, 2 behind it
    length = 2 * (1 + at.square().sum(1) / 16).sqrt() if pinhole else torch.full((side**2,), 2.0).double()
    seen = fog(1.0, pinhole).render(torch.tensor([0]), place, side).opacity.flatten()
    torch.testing.assert_close(seen, 1 - torch.exp(-length), atol=1e-3, rtol=0)


@pytest.mark.parametrize("pinhole", [True, False])
def test_what_lies_behind_the_camera_is_not_seen(pinhole):
    place = torch.tensor([[0.5, 0.0, 0.0]]).double()  # within the cube, 1.5 before its rear face
    seen = fog(1.0, pinhole).render(torch.tensor([0]), place, 9)
    assert float(seen.opacity[0, 4, 4]) == pytest.approx(1 - math.exp(-1.5), abs=3e-3)
    assert float(seen.depth.min()) > 0


# -- gradients -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "net",
    [Gaussians(2, 5), Gaussians(1, 4, pinhole=False), Voxels(2, 4, 6)],
    ids=["pinhole", "flat", "voxels"],
)
def test_gradients_are_those_of_finite_differences(net):
    net = net.double()
    names, values = zip(*[(n, p.detach().clone()) for n, p in net.named_parameters()], strict=True)
    which, place = torch.tensor([0, net.scenes - 1]), PLACES[:2]
    wanted = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(*given):
        for p, value in zip(net.parameters(), given, strict=True):
            p.data = value
        seen = net.render(which, place, 6)
        return (torch.cat([seen.rgb, seen.opacity[:, None], seen.depth[:, None]], 1) * wanted).sum()

    loss(*values).backward()
    generator = torch.Generator().manual_seed(2)
    for i, p in enumerate(net.parameters()):
        along = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        moved = [
            loss(*(v + sign * 1e-6 * along if j == i else v for j, v in enumerate(values))).item()
            for sign in (1, -1)
        ]
        assert (p.grad * along).sum().item() == pytest.approx(
            (moved[0] - moved[1]) / 2e-6, rel=1e-5, abs=1e-7
        ), names[i]


# -- voxels ----------------------------------------------------------------------------------------
def test_a_full_grid_is_opaque_and_an_empty_one_is_not_there():
    for level, opacity in ((20.0, 1.0), (-20.0, 0.0)):
        net = Voxels(edge=8, background=-1.0).requires_grad_(False)
        net.density.fill_(level)
        seen = net.render(torch.tensor([0]), torch.tensor([[4.0, 0.0, 0.0]]), 8)
        assert seen.opacity[0, 4, 4] == pytest.approx(opacity, abs=1e-3)
    assert seen.rgb[0, :, 4, 4].tolist() == pytest.approx([-1, -1, -1], abs=1e-3)


def test_voxels_are_where_they_should_be():
    net = Voxels(edge=9, steps=40)
    with torch.no_grad():
        net.density.fill_(-20)
        net.density[0, 0, 4, 7, 6] = 20  # x = 0, y = 0.75, z = 0.5
    lens, place = net.lens, torch.tensor([[4.0, 0.0, 0.0]])
    opacity = net.render(torch.tensor([0]), place, 32).opacity[0]
    row, column = divmod(int(opacity.argmax()), 32)
    at = lens.see(place, torch.tensor([[[0.0, 0.75, 0.5]]]))[0][0, 0]
    assert (column + 0.5) / 16 - 1 == pytest.approx(at[0].item(), abs=0.06) and 1 - (
        row + 0.5
    ) / 16 == pytest.approx(at[1].item(), abs=0.06)


# -- as networks -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "config,shape",
    [
        ({"name": "gaussians", "scenes": 3, "count": 7}, (3, 8, 8)),
        ({"name": "voxels", "scenes": 3, "edge": 4}, (3, 8, 8)),
        ({"name": "points", "scenes": 3, "count": 4}, (8,)),
        ({"name": "plain", "scenes": 3, "size": [2, 5]}, (2, 5)),
    ],
)
def test_a_scene_is_a_denoiser_that_ignores_state_and_time(config, shape, tmp_path):
    net = build_model(config)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    model, cond = (
        Denoiser(net, Flow(), "x0"),
        {"features": orbit(4, 4.0), "scene": torch.tensor([0, 1, 2, 2])},
    )
    x = model(torch.randn(4, *shape), torch.rand(4), cond).x0
    assert x.shape == (4, *shape) and torch.equal(x, model(torch.zeros(4, *shape), torch.ones(4), cond).x0)
    assert not torch.equal(x[0], x[1])
    assert model(torch.zeros(1, *shape), torch.ones(1)).x0.shape == (
        1,
        *shape,
    )  # untold: the first scene from the front
    save_denoiser(tmp_path / "scene.safetensors", model)
    again, _ = load_denoiser(tmp_path / "scene.safetensors")
    assert torch.equal(again(torch.zeros(4, *shape), torch.ones(4), cond).x0, x)


def test_scenes_of_a_batch_do_not_touch_each_other():
    net = Gaussians(3, 9)
    net(torch.zeros(2, 3, 8, 8), torch.ones(2), {"scene": torch.tensor([0, 2])}).sum().backward()
    assert net.centre.grad[0].abs().sum() > 0 and net.centre.grad[1].abs().sum() == 0


@pytest.mark.parametrize(
    "net,x,cond,words",
    [
        (Points(2), torch.zeros(1, 2), {"scene": torch.tensor([2])}, "0 … 1, not 2"),
        (Points(), torch.zeros(1, 2), {"features": torch.zeros(1, 4)}, "places of cameras"),
        (Points(count=2), torch.zeros(1, 2), None, "4 numbers"),
        (Gaussians(), torch.zeros(1, 3, 8, 6), None, "square"),
        (Plain((3,)), torch.zeros(1, 2), None, "shape \\(3,\\)"),
    ],
)
def test_bad_input_in_one_sentence(net, x, cond, words):
    with pytest.raises(StillhouseError, match=words):
        net(x, torch.ones(1), cond)


@pytest.mark.parametrize(
    "config",
    [{"name": "gaussians", "count": 0}, {"name": "voxels", "edge": 1}, {"name": "points", "scenes": 0}],
)
def test_a_scene_without_anything_in_it_is_refused(config):
    with pytest.raises(StillhouseError):
        build_model(config)
