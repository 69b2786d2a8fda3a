"""Every world declares a direction and a unit for all that it measures."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.metric import Metric, declared, from_config
from stillhouse.worlds.base import get_world

WORLDS = [
    ("mixture", {}),
    ("digits", {}),
    ("shapes", {}),
    ("text", {"kind": "chain"}),
    ("text", {}),
    ("clips", {"kind": "drawn"}),
    ("clips", {"kind": "ring"}),
    ("clips", {"kind": "talking"}),
    ("tones", {}),
    ("photos", {}),
    ("control", {"task": "bandit"}),
    ("control", {}),
    ("objects", {}),
    ("objects", {"kind": "cube"}),
]


@pytest.mark.parametrize("name,options", WORLDS)
def test_all_that_a_world_measures_has_a_direction(name, options):
    world = get_world(name, **options)
    samples, labels = world.sample_data(24, Draws(24, 0))
    found = world.measure(samples, labels if world.classes or world.captions or world.cond_kind else None)
    assert list(declared(found, world.metrics, name)) == list(found)
    assert len({m.name for m in world.metrics}) == len(world.metrics)


@pytest.mark.parametrize("name,options", [(name, options) for name, options in WORLDS if name != "text"])
def test_a_row_without_a_label_is_not_measured_by_it(name, options):
    world = get_world(name, **options)
    samples, labels = world.sample_data(8, Draws(8, 0))
    with pytest.raises(StillhouseError, match="labels from 0 on, not -1"):
        world.measure(samples, torch.cat([torch.tensor([-1]), labels[1:]]))


def test_what_is_measured_by_labels_refuses_those_of_nothing():
    talking, mixture = get_world("clips", kind="talking"), get_world("mixture")
    x, labels = talking.sample_data(4, Draws(4, 0))
    none, many = torch.full((4,), -1), torch.full((4,), 1000)
    for measured in (talking.sync, talking.moves):
        assert measured(x, labels) == 1
        for wrong, sentence in ((none, "labels from 0 on, not -1"), (many, "0 … 191, not 1000")):
            with pytest.raises(StillhouseError, match=sentence):
                measured(x, wrong)
    x, labels = mixture.sample_data(4, Draws(4, 0))
    for measured in (mixture.off_mode, mixture.accuracy):
        with pytest.raises(StillhouseError, match="labels from 0 on, not -1"):
            measured(x, none)
        with pytest.raises(StillhouseError, match="not 1000"):
            measured(x, many)


@pytest.mark.parametrize("name,options", WORLDS)
def test_labels_are_those_of_the_training_split_by_default(name, options):
    world = get_world(name, **options)
    labels, train = world.balanced_labels(12), world.balanced_labels(12, "train")
    assert (labels is None and train is None) or torch.equal(labels, train)


def test_fidelities_point_upwards():
    for name in ("shapes", "clips"):
        found = {m.name: m.better for m in get_world(name).metrics}
        assert found["colour_fidelity"] == found["shape_fidelity"] == "high"


def test_a_metric_without_a_direction_is_refused():
    with pytest.raises(StillhouseError, match="'charm', but declares no direction"):
        declared(["charm"], get_world("mixture").metrics, "World 'mixture'")
    with pytest.raises(StillhouseError, match="better low, high"):
        Metric("charm", "more")


def test_a_metric_is_read_back_from_a_file():
    metric = Metric("psnr", "high", "dB", "to the truth", "PSNR")
    assert from_config({"psnr": metric.config()}) == [metric] and metric.note == "dB to the truth"
    with pytest.raises(StillhouseError, match="can't be read"):
        from_config({"psnr": {"worse": "high"}})
