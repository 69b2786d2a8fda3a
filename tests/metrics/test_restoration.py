import pytest
import torch
from safetensors.torch import save_file

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.fidelity import frechet_distance
from stillhouse.metrics.restoration import Lpips, perception_points, psnr, ssim
from stillhouse.metrics.textures import Textures
from stillhouse.worlds.photos.degrade import blurred


def images(n=3, side=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    return blurred(torch.rand(n, 3, side, side, generator=g) * 2 - 1, 0.8)


def test_psnr_by_hand():
    x = torch.zeros(2, 3, 4, 4)
    assert psnr(x + torch.tensor([0.2, 0.02])[:, None, None, None], x).tolist() == pytest.approx([20.0, 40.0])
    assert psnr(x, x).tolist() == [torch.inf] * 2


def test_ssim_and_psnr_are_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a = images()
    b = (a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    for i in range(3):
        x, y = (v[i].double().numpy() for v in (a, b))
        same = {
            "gaussian_weights": True,
            "sigma": 1.5,
            "use_sample_covariance": False,
            "data_range": 2.0,
            "channel_axis": 0,
        }
        assert float(ssim(b, a)[i]) == pytest.approx(metrics.structural_similarity(x, y, **same), abs=1e-9)
        assert float(psnr(b, a)[i]) == pytest.approx(
            metrics.peak_signal_noise_ratio(x, y, data_range=2.0), abs=1e-9
        )
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3)


def test_images_of_other_sizes_are_refused():
    with pytest.raises(StillhouseError, match="can't be compared"):
        psnr(images(2), images(3))
    with pytest.raises(StillhouseError, match="11 pixels or more"):
        ssim(images(1, 8), images(1, 8))


def weights(widths=(4, 6, 8, 8, 8)):
    g, made, channels = torch.Generator().manual_seed(0), {}, 3
    for i, (group, width) in enumerate(zip(Lpips.GROUPS, widths, strict=True)):
        for conv in group:
            made[f"features.{conv}.weight"] = 0.3 * torch.randn(width, channels, 3, 3, generator=g)
            made[f"features.{conv}.bias"] = torch.zeros(width)
            channels = width
        made[f"lin{i}.weight"] = torch.rand(1, width, 1, 1, generator=g)
    return made


def test_lpips_of_ones_own_weights(tmp_path):
    save_file(weights(), tmp_path / "vgg.safetensors")
    lpips, a = Lpips(tmp_path / "vgg.safetensors"), images(3, 32)
    assert lpips(a, a).tolist() == [0.0] * 3
    apart = [float(lpips((a + s * images(3, 32, 5)).clamp(-1, 1), a).mean()) for s in (0.05, 0.2, 0.6)]
    assert 0 < apart[0] < apart[1] < apart[2]
    # the formula written out: unit features, squared difference, weighted, mean over pixels, sum over groups
    by_hand = 0.0
    for i, (x, y) in enumerate(zip(lpips.features(a), lpips.features(images(3, 32, 7)), strict=True)):
        length = x.square().sum(1)
        assert float((length[length > 0.5] - 1).abs().max()) < 1e-3
        by_hand += ((x - y) ** 2 * lpips.weights[f"lin{i}.weight"]).sum(1).mean((1, 2))
    torch.testing.assert_close(lpips(a, images(3, 32, 7)), by_hand)


def test_lpips_without_its_weights_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match="There are no LPIPS weights"):
        Lpips(tmp_path / "none.safetensors")
    save_file({k: v for k, v in weights().items() if k != "lin4.weight"}, tmp_path / "half.safetensors")
    with pytest.raises(StillhouseError, match="lacks lin4.weight"):
        Lpips(tmp_path / "half.safetensors")


def test_textures_see_blur_noise_and_colour_and_not_where_things_are():
    x = images(400, 32)
    features = Textures()(x)
    assert features.shape == (400, 41) and bool(torch.isfinite(features).all())
    assert bool(torch.isfinite(Textures()(torch.zeros(2, 3, 16, 16))).all())
    spread = features.std(0)
    distance = lambda y: frechet_distance(Textures()(y) / spread, features / spread)  # noqa: E731
    other = distance(images(400, 32, 9))
    assert (
        distance(blurred(x, 1.0)) > 20 * other
        and distance(x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))) > 5 * other
    )
    assert distance(x.flip(-1)) < other
    with pytest.raises(StillhouseError, match="16 pixels or more"):
        Textures()(torch.zeros(2, 3, 8, 8))


def test_points_of_an_evaluation():
    rows = [
        {"who": "student", "steps": 1, "metrics": {"psnr": 26.0, "frechet": 5.0}},
        {"who": "teacher", "steps": 15, "metrics": {"psnr": 25.0, "frechet": 3.0}},
        {"who": "teacher", "steps": 2, "metrics": {"psnr": None, "frechet": 3.0}},
        {"who": "teacher", "steps": 2, "metrics": {"frechet": 3.0}},
    ]
    points = perception_points(rows)
    assert [(p.name, p.psnr, p.frechet) for p in points] == [
        ("student, 1 step", 26.0, 5.0),
        ("teacher, 15 steps", 25.0, 3.0),
    ]
