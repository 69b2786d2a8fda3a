"""Every world declares a direction and a unit for all that it measures."""

import pytest

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
