"""Drawn scenes: the geometry is what the caption says, the language is closed, held-out captions stay out."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.metrics.captions import (
    CAPTIONS,
    COLOURS,
    OBJECTS,
    SHAPES,
    VOCABULARY,
    canonical,
    caption_of,
    held_out,
    parts,
)
from stillhouse.worlds.base import get_world
from stillhouse.worlds.drawing import MARGIN, PAINT, SIDE, compose, distance, draw, masks


@pytest.fixture(scope="module")
def world():
    return get_world("shapes")


def number(caption):
    return CAPTIONS.index(caption)


# -- captions --------------------------------------------------------------------------------------
def test_the_language_is_complete():
    assert len(CAPTIONS) == len(set(CAPTIONS)) == 24 + 24 * 24 * 4 == 2328
    assert {word for caption in CAPTIONS for word in caption.split()} == set(VOCABULARY)
    assert max(len(caption.split()) for caption in CAPTIONS) == 8


def test_two_ways_to_say_the_same_have_one_canonical_caption():
    pred = {
        "a blue square below a red circle": "a red circle above a blue square",
        "a green cross right of a white triangle": "a white triangle left of a green cross",
        "a red circle above a blue square": "a red circle above a blue square",
        "a red circle": "a red circle",
    }
    found = canonical(torch.tensor([number(c) for c in pred]))
    assert [CAPTIONS[i] for i in found] == list(pred.values())
    every = canonical(torch.arange(len(CAPTIONS)))
    assert torch.equal(canonical(every), every) and len(every.unique()) == 24 + 24 * 24 * 2


def test_parts_name_what_the_words_do():
    ids = torch.arange(len(CAPTIONS))
    found = parts(ids)
    assert torch.equal(caption_of(found), canonical(ids))
    for i in (7, 300, 1111, 2327):
        words = CAPTIONS[int(canonical(ids[i : i + 1]))].split()
        assert words[1] == COLOURS[found.colour1[i]] and words[2] == SHAPES[found.shape1[i]]
        assert ("above" in words, "left" in words) == (bool(found.layout[i] == 1), bool(found.layout[i] == 2))
        if found.layout[i]:
            assert words[-2:] == [COLOURS[found.colour2[i]], SHAPES[found.shape2[i]]]
        else:
            assert found.shape2[i] == found.colour2[i] == -1


def test_a_tenth_of_the_pairs_is_held_out_whichever_way_it_is_said(world):
    hidden = held_out()
    assert not hidden[: len(OBJECTS)].any() and 0.08 < float(hidden[len(OBJECTS) :].double().mean()) < 0.12
    assert torch.equal(hidden, hidden[canonical(torch.arange(len(CAPTIONS)))])
    train, test = world.caption_ids("train"), world.caption_ids("test")
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(CAPTIONS))) and bool(
        hidden[test].all()
    )
    # every shape and colour, in both places, is still seen in training
    known = parts(train)
    assert all(
        len(getattr(known, name)[known.layout > 0].unique()) == size
        for name, size in (("shape1", 4), ("colour2", 6))
    )


# -- drawing ---------------------------------------------------------------------------------------
def test_relations_hold_and_nothing_touches():
    ids = torch.arange(len(OBJECTS), len(CAPTIONS))
    scene, pred = compose(ids, Draws(len(ids), "geometry")), parts(ids)
    assert torch.equal(scene.shape, torch.stack([pred.shape1, pred.shape2], 1))
    gap = scene.centre[:, 1] - scene.centre[:, 0]
    upright = pred.layout == 1
    along, across = torch.where(upright, gap[:, 1], gap[:, 0]), torch.where(upright, gap[:, 0], gap[:, 1])
    assert (
        bool((along >= scene.size.sum(1) + MARGIN - 1e-4).all())
        and float((across.abs() / along).max()) < 0.75
    )
    inside = torch.minimum(scene.centre, SIDE - scene.centre).amin(2) - scene.size
    assert float(inside.min()) > MARGIN - 1e-4
    cover = masks(scene)
    assert float(cover.sum(1).max()) <= 1 and float(cover.amax((2, 3)).min()) == 1
    border = torch.cat([cover[..., 0, :], cover[..., -1, :], cover[..., :, 0], cover[..., :, -1]], -1)
    assert float(border.max()) < 0.6  # a turned corner may reach into the margin


def test_the_centre_of_mass_is_where_the_scene_says():
    ids = torch.arange(len(OBJECTS))
    scene = compose(ids, Draws(len(ids), "mass"))
    cover = masks(scene)[:, 0]
    place = torch.arange(SIDE) + 0.5
    mass = (
        torch.stack([(cover.sum(1) * place).sum(1), (cover.sum(2) * place).sum(1)], 1)
        / cover.sum((1, 2))[:, None]
    )
    assert (mass - scene.centre[:, 0])[scene.shape[:, 0] != SHAPES.index("triangle")].abs().max() < 0.1
    assert (mass - scene.centre[:, 0]).abs().max() < 0.15 * float(scene.size.max())
    assert not masks(scene)[:, 1].any()


@pytest.mark.parametrize("shape", range(4), ids=SHAPES)
def test_distances_are_signed_in_pixels_and_areas_alike(shape):
    size = torch.tensor(7.0)
    line = torch.linspace(-12, 12, 481, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    d = distance(torch.tensor(shape), x, y, size)
    steepness = torch.stack(torch.gradient(d, spacing=0.05)).norm(dim=0)[1:-1, 1:-1]
    assert float(steepness.max()) < 1.01 and float((steepness > 0.99).double().mean()) > 0.9
    area = float((d < 0).double().mean()) * 24**2 / 7**2
    assert 1.5 < area < 2.9
    assert float(d[240, 240]) < -0.3 * 7 and float(torch.maximum(x.abs(), y.abs())[d < 0].max()) < 1.13 * 7


def test_edges_are_antialiased_and_colours_exact():
    ids = torch.arange(len(OBJECTS))
    scene = compose(ids, Draws(len(ids), "paint"))
    x, cover = (draw(scene) + 1) / 2, masks(scene)[:, 0]
    full = cover == 1
    for i in range(len(ids)):
        wanted = torch.tensor(PAINT[COLOURS[scene.colour[i, 0]]])
        assert torch.allclose(x[i][:, full[i]], wanted[:, None].expand(-1, int(full[i].sum())), atol=1e-6)
        assert torch.allclose(
            x[i][:, cover[i] == 0],
            scene.background[i][:, None].expand(-1, int((cover[i] == 0).sum())),
            atol=1e-6,
        )
    soft = ((cover > 0.02) & (cover < 0.98)).sum((1, 2)).double()
    assert float((soft / scene.size[:, 0]).min()) > 2  # about as many as the outline is long


def test_paints_are_far_from_each_other_and_from_any_background():
    paint = torch.tensor(list(PAINT.values()))
    assert float(torch.pdist(paint).min()) > 0.55
    scene = compose(torch.zeros(2000).long(), Draws(2000, "backgrounds"))
    assert (
        float(torch.cdist(paint, scene.background).min()) > 0.4
        and float(scene.background.std(0).min()) > 0.05
    )


# -- the world -------------------------------------------------------------------------------------
def test_draws_follow_from_their_stream_and_never_show_a_held_out_caption(world):
    x, ids = world.sample_data(1200, Draws(1200, 0))
    assert (
        x.shape == (1200, 3, 32, 32)
        and x.dtype == torch.float32
        and float(x.min()) >= -1
        and float(x.max()) <= 1
    )
    assert not held_out()[ids].any() and len(ids.unique()) > 700
    assert 0.13 < float((ids < len(OBJECTS)).double().mean()) < 0.21
    assert torch.equal(x, world.sample_data(1200, Draws(1200, 0))[0]) and not torch.equal(
        x, world.sample_data(1200, Draws(1200, 1))[0]
    )
    assert float(x.std()) == pytest.approx(world.sigma_data, abs=0.02)
    hidden = world.caption_ids("test")[:8]
    asked = torch.cat([hidden, torch.tensor([-1, -1])])
    assert torch.equal(world.sample_data(10, Draws(10, 0), asked)[1][:8], hidden)


def test_processes_share_one_batch(world):
    whole, ids = world.sample_data(8, Draws(8, "shared"))
    halves = [world.sample_data(4, Draws(4, "shared", rank=r, world=2)) for r in range(2)]
    assert torch.equal(torch.cat([x for x, _ in halves]), whole) and torch.equal(
        torch.cat([i for _, i in halves]), ids
    )


def test_splits_are_fixed_and_apart(world):
    (x, ids), (_, others) = world.data("train"), world.data("test")
    assert len(x) == 4000 and len(others) == 1000 and not held_out()[ids].any() and held_out()[others].all()
    assert torch.equal(x, get_world("shapes").data("train")[0])
    with pytest.raises(StillhouseError, match="'valid'"):
        world.data("valid")
    with pytest.raises(StillhouseError, match="'valid'"):
        world.caption_ids("valid")


def test_conditions_are_the_encoded_captions(world):
    ids = torch.tensor([number("a red circle"), -1, number("a white cross right of a red square")])
    told = world.condition(ids)
    again = world.text.encode(["a red circle", "", "a white cross right of a red square"])
    assert told.keys() == again.keys() and all(torch.equal(told[k], again[k]) for k in told)
    assert told["mask"].sum(1).tolist() == [3, 0, 8] and world.condition(None) is None
    with pytest.raises(StillhouseError, match="0 … 2327"):
        world.condition(torch.tensor([2328]))


def test_even_captions_cover_the_split_in_the_data_s_proportion(world):
    ids = world.balanced_labels(2496)
    assert torch.equal(ids.unique(), world.caption_ids()) and torch.equal(world.balanced_labels(9), ids[:9])
    assert torch.equal((ids < len(OBJECTS)), torch.arange(2496) % 6 == 0)
    pairs = ids[ids >= len(OBJECTS)]
    assert len(pairs) == len(pairs.unique()) == 2080
    hidden = world.balanced_labels(224, "test")
    assert torch.equal(hidden.sort().values, world.caption_ids("test"))


def test_network_and_exact_denoiser_fit(world):
    x, ids = world.sample_data(2, Draws(2, 0))
    t = torch.tensor([0.2, 0.9])
    net = world.network(Flow())
    assert net(x, t, world.condition(ids)).x0.shape == x.shape and world.classes == 0
    assert sum("cross" in name and name.endswith("out.weight") for name, _ in net.net.named_parameters()) == 5
    few = world.data()[0][:3]
    assert torch.equal(world.exact(Flow())(few, torch.zeros(3)).x0, few)
