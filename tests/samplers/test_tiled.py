import pytest
import torch

from stillhouse.core.bridge import ResShift
from stillhouse.core.denoiser import Denoiser, ExactDenoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.samplers.draw import draw_samples
from stillhouse.samplers.sampling import Leg, Sampling
from stillhouse.samplers.tiled import Tiled, ramp, restore, starts


class Pixelwise(ExactDenoiser):
    """Answers each pixel by itself, so that no tile can matter."""

    def mean(self, x_t, t, cond):
        return 0.5 * x_t.tanh() + 0.1 * cond["image"]


def random_net(process, image_cond=3, seed=0) -> Denoiser:
    net = build_model(
        {"name": "unet", "image_channels": 3, "image_cond": image_cond, "channels": [8, 8], "heads": 2}, seed
    )
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(std=0.05, generator=g)
    return Denoiser(net, process, "x0").eval()


def picture(height=80, width=104, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    "length,tile,overlap", [(104, 32, 8), (64, 32, 16), (32, 32, 8), (16, 32, 8), (72, 64, 16)]
)
def test_tiles_cover_the_line_and_share_the_overlap(length, tile, overlap):
    first = starts(length, tile, overlap)
    covered = {p for s in first for p in range(s, min(s + tile, length))}
    assert covered == set(range(length)) and all(s % 8 == 0 for s in first)
    assert all(a + tile - b >= overlap for a, b in zip(first, first[1:], strict=False))


def test_ramp_by_hand():
    assert ramp(8, 4).tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125])
    assert ramp(8, 0).tolist() == [1.0] * 8


@pytest.mark.parametrize("solver", ["ddim", "heun", "renoise"])
def test_tiles_change_nothing_for_a_denoiser_of_single_pixels(solver):
    plain, cond = Pixelwise(Flow()), {"image": picture()}
    sampling = Sampling.steps(Flow(), 4, solver=solver)
    whole, tiled = (
        draw_samples(d, sampling, (3, 80, 104), cond, Draws(1, 5))
        for d in (plain, Tiled(plain, tile=32, overlap=8, batch=5))
    )
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_one_tile_is_the_network_itself_and_guidance_goes_around_it():
    net, x, t = random_net(Flow()), picture(32, 32).repeat(2, 1, 1, 1), torch.tensor([0.3, 0.8])
    cond = {"image": picture(32, 32, 1).repeat(2, 1, 1, 1)}
    for one, other in ((Tiled(net, 32, 8), net), (Guided(Tiled(net, 32, 8), 3.0), Guided(net, 3.0))):
        torch.testing.assert_close(one(x, t, cond).x0, other(x, t, cond).x0, atol=1e-6, rtol=0)


def test_every_row_gets_its_own_time_and_condition():
    net, cond = random_net(Flow()), {"image": torch.cat([picture(48, 40, 1), picture(48, 40, 2)])}
    x, t = torch.cat([picture(48, 40, 3), picture(48, 40, 4)]), torch.tensor([0.2, 0.9])
    tiled = Tiled(net, 32, 8, batch=3)
    both = tiled(x, t, cond).x0
    for i in range(2):
        alone = tiled(x[i : i + 1], t[i : i + 1], {"image": cond["image"][i : i + 1]}).x0
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=0)


class Contrast(ExactDenoiser):
    """What normalisation does to a network: the answer is the picture less the mean of the tile it lies
    in."""

    def mean(self, x_t, t, cond):
        return cond["image"] - cond["image"].mean((1, 2, 3), keepdim=True) + 0 * x_t


def seam_ratio(image, borders):
    """Mean step between neighbouring columns across ``borders``, over that elsewhere."""
    steps = (image[..., 1:] - image[..., :-1]).double().abs().mean((0, 1, 2))
    there = torch.zeros(len(steps), dtype=torch.bool)
    there[[b - 1 for b in borders]] = True
    return float(steps[there].mean() / steps[~there].mean())


def test_borders_of_tiles_do_not_show_and_without_an_overlap_they_do():
    process, width = ResShift(kappa=0.5, first=0.02), 400
    slope = torch.linspace(-0.5, 0.5, width).expand(1, 3, 48, width)
    net, sampling, found = Contrast(process), Sampling.steps(process, 3, solver="ddim"), {}
    given = slope + 0.01 * picture(48, width)
    for overlap in (16, 0):
        first = starts(width, 32, overlap)
        restored = restore(net, sampling, given, Draws(1, 0), tile=32, overlap=overlap)
        found[overlap] = seam_ratio(restored - given, sorted({*first[1:], *(s + 32 for s in first[:-1])}))
    assert found[16] < 1.05 and found[0] > 5


def test_the_shipped_teacher_leaves_no_seams():
    from stillhouse.opening import load
    from stillhouse.worlds.photos.degrade import shrunk
    from stillhouse.worlds.photos.world import _photographs

    teacher, found = load("photos"), {}
    given = shrunk(_photographs("test")[0][None, :, 160:288, 200:392].float() / 127.5 - 1, 4)
    for overlap in (16, 0):
        first = starts(192, 64, overlap)
        restored = restore(
            teacher.denoiser, teacher.sampling(5), given, Draws(1, 0), tile=64, overlap=overlap
        )
        found[overlap] = seam_ratio(restored - given, sorted({*first[1:], *(s + 64 for s in first[:-1])}))
    assert found[16] < 1.1 and found[0] > 1.3, found


@pytest.mark.parametrize("height,width", [(9, 100), (33, 31), (64, 64)])
def test_any_size_comes_back_in_its_size_and_range(height, width):
    process = ResShift(kappa=0.5, first=0.02)
    net, ticks = random_net(process), []
    given = picture(height, width)
    with count_calls(net) as calls:
        restored = restore(
            net,
            Sampling.steps(process, 2, "ddim"),
            given,
            Draws(1, 0),
            tile=32,
            overlap=8,
            batch=1,
            tick=ticks.append,
        )
    assert restored.shape == given.shape and float(restored.abs().max()) <= 1
    assert sum(ticks) == calls() > 0


def test_tiles_that_do_not_fit_are_refused():
    net = random_net(Flow())
    with pytest.raises(StillhouseError, match="divisible by 8, not 30"):
        Tiled(net, 30, 8)
    with pytest.raises(StillhouseError, match="overlap by 0 to 16, divisible by 8, not by 24"):
        Tiled(net, 32, 24)
    with pytest.raises(StillhouseError, match="not 20 x 32"):
        Tiled(net, 32, 8)(picture(20, 32), torch.ones(1), {"image": picture(20, 32)})


def test_a_companion_walks_its_leg_in_tiles_as_well():
    process, given = ResShift(kappa=0.5, first=0.02), picture(40, 56)
    first, second = random_net(process), Contrast(process)
    legs = [Leg([1.0, 0.5]), Leg([0.5, 0.0], network="other")]
    how = {"tile": 32, "overlap": 8}
    one, two = (
        restore(net, Sampling(legs=legs), given, Draws(1, 0), networks={"other": second}, **how)
        for net in (first, second)
    )
    assert one.shape == given.shape and one.isfinite().all()
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)  # the last leg alone decides on the clean end
    with pytest.raises(StillhouseError, match="wants the companion 'other'"):
        restore(first, Sampling(legs=legs), given, Draws(1, 0), **how)
