"""The caption reader: what it reads, how sure it is, and that it knows right from nearly right."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.metrics.captions import CAPTIONS, canonical
from stillhouse.metrics.reader import (
    Reader,
    load_reader,
    prompt_fidelity,
    reader_asset,
    reader_recipe,
    reading_loss,
)
from stillhouse.worlds.base import get_world
from tools.reader import spoiled, train


@pytest.fixture(scope="module")
def world():
    return get_world("shapes")


@pytest.mark.parametrize(("split", "name"), [("train", "accuracy"), ("test", "held_out_accuracy")])
def test_shipped_reader_reads_as_well_as_it_says(world, split, name):
    reader, (x, ids) = load_reader(), world.data(split)
    found = prompt_fidelity(reader, x, ids)["fidelity"]
    assert found >= 0.98 and found == pytest.approx(float(reader_recipe()[name]), abs=0.002)
    assert reader_asset().stat().st_size <= 0.5 * 2**20
    read = reader.read(x[:200])
    assert float((read == canonical(ids[:200])).double().mean()) >= 0.97


@pytest.mark.parametrize("sure", [False, True], ids=["untrained", "shipped"])
def test_probabilities_are_those_of_scenes(world, sure, monkeypatch):
    reader, x = load_reader() if sure else Reader().eval(), world.sample_data(3, Draws(3, 0))[0]
    every = torch.arange(len(CAPTIONS))
    pred, read, rows = reader.log_parts(x), reader.read(x), torch.arange(3).repeat_interleave(len(every))
    monkeypatch.setattr(
        reader, "log_parts", lambda images: {name: log.double()[rows] for name, log in pred.items()}
    )  # seen once
    log = reader.log_prob(x, every.repeat(3)).view(3, -1)
    one = canonical(every) == every
    assert torch.equal(log, log[:, canonical(every)])  # two ways to say the same are equally likely
    assert torch.allclose(log[:, one].exp().sum(1), torch.ones(3).double())
    if sure:  # part by part and as a whole, the likeliest is the same
        assert torch.equal(read, log.masked_fill(~one, -torch.inf).argmax(1))


def test_it_is_a_reward_that_leads_to_what_is_asked_for(world):
    reader = load_reader()
    x, _ = world.sample_data(4, Draws(4, 3))
    wish = torch.tensor([CAPTIONS.index("a red circle above a blue square")]).expand(4)
    state = x.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(reader.log_prob(state, wish).sum(), state)
    better = x + 0.02 * grad / grad.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) * 32
    assert bool((reader.log_prob(better, wish) > reader.log_prob(x, wish)).all())


def test_fidelity_tells_which_part_is_wrong(world):
    reader, n = load_reader(), 200
    ids = torch.full((n,), CAPTIONS.index("a red circle above a blue square"))
    x = world.sample_data(n, Draws(n, 5), ids)[0]

    def ask(caption):
        found = prompt_fidelity(reader, x, torch.full((n,), CAPTIONS.index(caption)))
        return {name.removesuffix("_fidelity"): round(value) for name, value in found.items()}

    assert ask("a blue square below a red circle") == {"fidelity": 1, "shape": 1, "colour": 1, "layout": 1}
    assert ask("a red circle left of a blue square") == {"fidelity": 0, "shape": 1, "colour": 1, "layout": 0}
    assert ask("a blue circle above a red square") == {"fidelity": 0, "shape": 1, "colour": 0, "layout": 1}
    assert ask("a red cross above a blue square") == {"fidelity": 0, "shape": 0, "colour": 1, "layout": 1}
    with pytest.raises(StillhouseError, match="200 images and 3 captions"):
        prompt_fidelity(reader, x, ids[:3])


def test_measure_tells_good_from_bad(world):
    real = world.floor(600)
    x, ids = world.sample_data(600, Draws(600, "measured"))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    noisy, blurred = (
        world.measure(x + 0.5 * noise, ids),
        world.measure(torch.nn.functional.avg_pool2d(x, 5, 1, 2), ids.roll(1)),
    )
    one = world.measure(x[:5].repeat(120, 1, 1, 1))
    assert (
        next(iter(real)) == "fidelity"
        and real["fidelity"] > 0.98
        and real["precision"] > 0.75
        and real["coverage"] > 0.75
    )
    assert 0.9 < real["high_band_ratio"] < 1.1 and "fidelity" not in one and one["coverage"] < 0.05
    assert min(noisy["frechet"], blurred["frechet"], one["frechet"]) > 3 * real["frechet"]
    assert noisy["high_band_ratio"] > 2 and blurred["high_band_ratio"] < 0.5 and blurred["fidelity"] < 0.05
    assert real == world.floor(600)


def test_loss_passes_over_what_a_single_scene_has_not(world):
    reader, x = Reader().eval(), world.sample_data(4, Draws(4, 0))[0]
    single, double = torch.zeros(4).long(), torch.full((4,), 2000)
    grads = []
    for ids in (single, double):
        reader.zero_grad()
        reading_loss(reader, x, ids + 0).nan_to_num().backward()
        grads.append(reader.heads["shape2"].weight.grad.abs().sum())
    assert grads[0] == 0 and grads[1] > 0


def test_spoiling_is_mild_and_repeats(world):
    x = world.sample_data(64, Draws(64, 0))[0]
    a, b = (spoiled(x, Draws(64, "spoil")) for _ in range(2))
    apart = (a - x).flatten(1).square().mean(1).sqrt()
    assert torch.equal(a, b) and 0.02 < float(apart.mean()) < 0.2 and float(apart.max()) < 0.35


def test_training_learns_and_repeats():
    (reader, made), (again, _) = (train(seed=1, steps=8, batch=16) for _ in range(2))
    assert made["steps"] == "8" and all(
        torch.equal(a, b)
        for a, b in zip(reader.state_dict().values(), again.state_dict().values(), strict=True)
    )
