import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.core.bridge import ResShift
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import EDM
from stillhouse.core.schedules import Flow, process_from_config
from stillhouse.worlds.base import get_world
from stillhouse.worlds.photos import world as module
from stillhouse.worlds.photos.degrade import SCALES, blurred, degrade, jpeg, shrunk
from stillhouse.worlds.photos.world import MARGIN, PHOTOGRAPHS, Photos, find_photograph

TASKS = sorted(SCALES)


@pytest.fixture(scope="module")
def world() -> Photos:
    return get_world("photos", task="x4")


def test_a_whole_photograph_is_shown_spoilt_and_true():
    degraded, true = Photos().display.whole(64)
    assert degraded.shape == true.shape == (1, 3, 64, 64) and true.abs().max() <= 1
    assert 1e-3 < float((degraded - true).square().mean()) < 0.1


def test_a_patch_is_cut_from_its_photograph(world):
    photo = (
        torch.from_numpy(np.array(Image.open(find_photograph("sklearn", "china.jpg"))))
        .permute(2, 0, 1)
        .float()
        / 127.5
        - 1
    )
    place = next(i for i, p in enumerate(world._places["train"].tolist()) if p[0] == 0)
    _, top, left = world._places["train"][place].tolist()
    patch = photo[:, top : top + 32, left : left + 32]
    upright, turned, mirrored = world.clean(torch.tensor([8 * place, 8 * place + 1, 8 * place + 4]))
    assert (
        torch.equal(upright, patch)
        and torch.equal(turned, patch.rot90(1, (1, 2)))
        and torch.equal(mirrored, patch.flip(-1))
    )
    eight = world.clean(8 * place + torch.arange(8)).flatten(1)
    assert len(torch.unique(eight, dim=0)) == 8


def test_test_patches_are_of_other_photographs(world):
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["test"])
    train, test = world.balanced_labels(500), world.balanced_labels(500, "test")
    first = world._first["test"]
    assert int(train.max()) < first <= int(test.min()) and len(train.unique()) == len(test.unique()) == 500
    drawn = world.sample_data(200, Draws(200, 0))[1]
    assert int(drawn.max()) < first
    x, labels = world.data("test")
    assert torch.equal(x[:5], world.clean(labels[:5])) and x.shape[1:] == world.shape


@pytest.mark.parametrize("task", TASKS)
def test_a_patch_is_spoilt_in_the_same_way_every_time(task):
    world = get_world("photos", task=task)
    labels = world.balanced_labels(6, "test")
    once = world.condition(labels)["image"]
    again = world.condition(labels.flip(0))["image"].flip(0)
    assert torch.equal(once, again) and once.shape == (6, 3, 32, 32) and float(once.abs().max()) <= 1
    clean = world.clean(labels)
    assert 0.01 < float((once - clean).square().mean().sqrt()) < 0.5
    assert (
        float(
            (
                world.condition(world.balanced_labels(200, "test"))["image"]
                - world.clean(world.balanced_labels(200, "test"))
            ).std()
        )
        < 1.3 * world.sigma_data
    )


def test_the_border_of_a_patch_looks_as_within_the_photograph(world):
    """Spoiling a patch by itself repeats its border; with what lies around it, it is a cut of the spoilt
    photograph."""
    photo, top, left = next(p for p in world._places["train"].tolist() if p[0] == 0 and min(p[1:]) >= 64)
    whole = module._photographs("train")[photo][None].float() / 127.5 - 1
    whole = whole[..., : whole.shape[-2] // 4 * 4, :]
    there = shrunk(whole, 4)[0][:, top : top + 32, left : left + 32]
    number = 8 * world._places["train"].tolist().index([photo, top, left])
    here = world.condition(torch.tensor([number]))["image"][0]
    alone = shrunk(world.clean(torch.tensor([number])), 4)[0]
    assert float((here - there)[:, 2:-2, 2:-2].abs().max()) < 2e-3 < float((alone - there).abs().max())
    assert float((here - there).abs().mean()) < 0.2 * float((alone - there).abs().mean())


def test_what_the_degradations_do():
    x = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    flat = torch.full((1, 3, 32, 32), 0.3)
    for degraded in (blurred(flat, 1.5), shrunk(flat, 4), shrunk(flat, 2)):
        assert torch.allclose(degraded, flat, atol=1e-5)
    assert float((jpeg(flat, 90) - flat).abs().max()) < 0.02
    # a Gaussian leaves exp(-2 pi^2 f^2 sigma^2) of a wave of f cycles per pixel
    wave = torch.cos(2 * torch.pi * torch.arange(64) / 8).expand(1, 1, 64, 64)
    left = blurred(wave, 1.2)[0, 0, 32, 16:48].abs().max()
    assert float(left) == pytest.approx(
        float(torch.exp(torch.tensor(-2 * torch.pi**2 * 1.2**2 / 64))), rel=0.02
    )
    rough, fine = (
        float((jpeg(blurred(x[:1], 2.0), quality) - blurred(x[:1], 2.0)).std()) for quality in (5, 90)
    )
    assert rough > 2 * fine > 0
    one, other = degrade(x[:1].repeat(2, 1, 1, 1), torch.tensor([3, 4]), "real")
    assert float((one - other).std()) > 0.02  # chance of its own
    noisy = degrade(torch.zeros(200, 3, 8, 8), torch.arange(200), "noise").flatten(1).std(1)
    assert 0.08 < float(noisy.min()) and float(noisy.max()) < 0.45 and float(noisy.std()) > 0.05


def test_figures_rank_what_they_should(world):
    labels = world.balanced_labels(200, "test")
    clean, given = world.clean(labels), world.condition(labels)["image"]
    true, degraded = world.measure(clean, labels), world.measure(given, labels)
    noisy = world.measure(
        clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), labels
    )
    assert next(iter(true)) == "frechet" and true["psnr"] == torch.inf and true["ssim"] == pytest.approx(1)
    assert true["frechet"] < 0.1 * degraded["frechet"] and true["frechet"] < 0.1 * noisy["frechet"]
    assert degraded["high_band_ratio"] < 0.5 < 1 == true["high_band_ratio"] < 1.5 < noisy["high_band_ratio"]
    assert world.identity_metrics(200) == degraded and "lpips" not in degraded
    assert set(world.measure(clean)) == {"frechet", "high_band_ratio"}
    assert world.display.view(given, labels).images[:4].shape == (4, 3, 32, 96)


def test_network_hears_the_spoilt_image(world):
    process = process_from_config(world.default_process)
    assert isinstance(process, ResShift) and world.cond_kind == "image"
    net = world.network(process, kind=world.default_kind, channels=(8, 8), blocks=1)
    assert isinstance(net.kind, EDM) and net.kind.sigma_data == world.sigma_data
    assert world.network(Flow(), kind="edm", channels=(8, 8), blocks=1).kind.sigma_data > 0.4
    net.net.output.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    x, t = torch.zeros(2, 3, 32, 32), torch.full((2,), 0.5)
    cond = world.condition(world.balanced_labels(2, "test"))
    assert float((net(x, t, cond).x0 - net(x, t).x0).abs().max()) > 1e-3


def test_bad_input_gets_one_sentence(world):
    for make, sentence in (
        (lambda: Photos(task="x3"), "no task of the world 'photos' named 'x3'"),
        (lambda: Photos(size=30), "divisible by 8, not 30"),
        (lambda: Photos(lpips="nowhere"), "no LPIPS weights"),
        (lambda: world.condition(torch.tensor([10**7])), "Patches have the numbers"),
        (lambda: world.condition(torch.tensor([-1])), "Patches have the numbers"),
        (lambda: world.balanced_labels(4, "all"), "splits 'train' and 'test'"),
        (lambda: world.exact(Flow()), "no closed-form denoiser"),
    ):
        with pytest.raises(StillhouseError, match=sentence):
            make()


def test_works_with_the_photographs_of_scikit_learn_alone(monkeypatch):
    monkeypatch.setitem(module.PLACES, "skimage", "nowhere")
    for memory in (module._photographs, module._padded, module._places):
        memory.cache_clear()
    try:
        world = Photos()
        assert len(module._photographs("train")) == len(module._photographs("test")) == 1
        assert world.clean(world.balanced_labels(3, "test")).shape == (3, 3, 32, 32)
    finally:
        for memory in (module._photographs, module._padded, module._places):
            memory.cache_clear()


def test_margin_keeps_the_blocks_of_a_jpeg_in_step():
    assert MARGIN % 8 == 0 and module.STRIDE % 8 == 0
