import time

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.features import asset, class_accuracy, features_of, load_features, recipe
from stillhouse.metrics.spectrum import band_energy, high_band_ratio
from stillhouse.metrics.suite import measure_images
from stillhouse.metrics.timing import per_sample_time
from stillhouse.worlds.base import get_world
from tools.features import jitter, train


@pytest.mark.parametrize(("world", "least"), [("digits", 0.96), ("mnist", 0.97)])
def test_shipped_classifier_reads_as_well_as_it_says(world, least):
    net, pred = load_features(world), recipe(world)
    measured = class_accuracy(net, *get_world(world).data("test"))
    assert measured >= least and measured == pytest.approx(float(pred["accuracy"]), abs=0.0025)
    assert pred["world"] == world and int(pred["seed"]) >= 0 and asset(world).stat().st_size < 1_000_000
    assert features_of(net, get_world(world).data("test")[0][:7], chunk=3).shape == (7, 64)


def test_unknown_features_are_refused():
    with pytest.raises(StillhouseError, match="pass your own"):
        load_features("portraits")


def test_training_learns_and_repeats():
    (net, made), (again, _) = (train("digits", seed=5, epochs=2) for _ in range(2))
    assert float(made["accuracy"]) > 0.8 and made["seed"] == "5"
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_jitter_keeps_the_background_and_moves_the_ink():
    x = get_world("digits").data()[0][:50]
    moved = jitter(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape and float(moved.min()) >= -1 - 1e-5 and float(moved.max()) <= 1 + 1e-5
    assert 0.05 < float((moved - x).square().mean()) < float((x.roll(1, 0) - x).square().mean())
    assert (jitter(torch.full((4, 1, 8, 8), -1.0), torch.Generator().manual_seed(0)) + 1).abs().max() < 1e-6


def test_users_own_features_take_the_place_of_ours():
    x = get_world("digits").data()[0]
    values = measure_images(
        "digits",
        x[:300],
        x[300:],
        features=lambda images: images.mean((2, 3)),
        generator=torch.Generator().manual_seed(0),
    )
    means = x.mean((1, 2, 3)).double()
    wanted = (means[:300].mean() - means[300:].mean()) ** 2 + (means[:300].std() - means[300:].std()) ** 2
    assert values["frechet"] == pytest.approx(float(wanted), rel=1e-3)


def test_a_world_without_a_classifier_takes_the_accuracy_of_ones_own():
    class Own(torch.nn.Flatten):
        def logits(self, images):
            return torch.stack([images.mean((1, 2, 3)), -images.mean((1, 2, 3))], 1)

    x = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = (x.mean((1, 2, 3)) < 0).long()
    generator = torch.Generator().manual_seed(0)
    values = measure_images("own", x, x.flip(0), labels, features=Own(), generator=generator)
    assert values["accuracy"] == 1
    plain = measure_images("own", x, x.flip(0), labels, features=torch.nn.Flatten(), generator=generator)
    assert set(values) - set(plain) == {"accuracy"}


def test_band_energy_of_a_known_wave():
    place = torch.arange(32).double()
    slow, fast = (torch.cos(2 * torch.pi * f * place).expand(1, 1, 32, 32) for f in (3 / 32, 11 / 32))
    assert float(band_energy(slow)) == pytest.approx(0, abs=1e-12)
    assert float(band_energy(fast)) == pytest.approx(0.5)  # the mean of cos^2
    assert float(band_energy(fast.mT + slow)) == pytest.approx(0.5)
    assert high_band_ratio(0.5 * fast + slow, fast) == pytest.approx(0.25)
    with pytest.raises(StillhouseError, match="needs images"):
        band_energy(torch.zeros(3, 3))


def test_time_per_sample():
    assert 0.001 <= per_sample_time(lambda: time.sleep(0.01), 10, repeats=3) < 0.01
    with pytest.raises(StillhouseError, match="at least one"):
        per_sample_time(lambda: None, 0)
