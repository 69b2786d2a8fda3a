"""Students made from a teacher's network."""

import pytest
import torch

from stillhouse.adapters import adapted
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.models import build_model
from stillhouse.parts.players.students import shrunk, with_inputs
from stillhouse.worlds.mixture.layouts import make_mixture

NETS = {
    "mlp": ({"width": 32, "depth": 4}, (2,)),
    "unet": ({"image_channels": 3, "channels": (16, 32)}, (3, 8, 8)),
    "dit": ({"image_channels": 3, "dim": 48, "depth": 2, "heads": 3, "patch": 2}, (3, 8, 8)),
    "temporal": ({"channels": (16, 32)}, (8, 2)),
    "video_dit": ({"dim": 32, "depth": 2, "heads": 2}, (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_smaller_network_has_the_inputs_of_the_larger_one(name):
    config, shape = NETS[name]
    teacher = Denoiser(build_model({"name": name, "two_time": True, **config}), Flow(), two_time=True)
    small, t = shrunk(teacher, 0.5), torch.full((3,), 0.5)
    few, many = (sum(p.numel() for p in net.parameters()) for net in (small, teacher))
    assert few < 0.6 * many
    assert small(torch.randn(3, *shape), t, None, s=t / 2).x0.shape == (3, *shape)
    teacher.empty = torch.zeros(1)
    assert small.two_time and shrunk(teacher, 0.5).empty is teacher.empty


@pytest.mark.parametrize(
    "config, share, expected",
    [
        ({"name": "mlp", "width": 100, "depth": 5}, 0.5, {"width": 48, "depth": 2}),
        ({"name": "mlp", "width": 100, "depth": 5}, 0.01, {"width": 8, "depth": 1}),
        ({"name": "mlp", "width": 16, "depth": 3}, 1.5, {"width": 24, "depth": 4}),
        ({"name": "unet", "image_channels": 3, "channels": (16, 40)}, 0.5, {"channels": [8, 16]}),
        ({"name": "unet", "image_channels": 3, "channels": (16, 40)}, 0.1, {"channels": [8, 8]}),
        ({"name": "dit", "image_channels": 3, "dim": 96, "depth": 3, "heads": 3, "patch": 2}, 0.5,
         {"dim": 48, "depth": 2}),
        ({"name": "dit", "image_channels": 3, "dim": 96, "depth": 3, "heads": 3, "patch": 2}, 0.1,
         {"dim": 24, "depth": 1}),
    ],
)  # fmt: skip
def test_widths_are_multiples_of_eight_that_heads_divide(config, share, expected):
    teacher = Denoiser(build_model(config), Flow())
    made = shrunk(teacher, share).net.config
    assert {key: made[key] for key in expected} == expected
    assert {k: v for k, v in made.items() if k not in expected} == {
        k: v for k, v in teacher.net.config.items() if k not in expected
    }


def test_new_inputs_start_without_effect_and_the_copy_is_trainable():
    teacher = Denoiser(build_model({"name": "mlp", "width": 16, "depth": 2}), Flow()).requires_grad_(False)
    x, t = torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.9])
    before = teacher(x, t).x0
    timed, guided = with_inputs(teacher, two_time=True), with_inputs(teacher, guidance_input=True)
    assert timed.two_time and not guided.two_time and not teacher.two_time
    assert timed.net.config["two_time"] and not timed.net.config.get("guidance_input")
    assert guided.net.config["guidance_input"] and not guided.net.config.get("two_time")
    torch.testing.assert_close(timed(x, t, s=t / 2).x0, before)
    torch.testing.assert_close(guided(x, t, guidance=torch.full((3,), 4.0)).x0, before)
    assert all(p.requires_grad for p in [*timed.parameters(), *guided.parameters()])
    both = with_inputs(guided, two_time=True)
    assert both.two_time and both.net.config["two_time"] and both.net.config["guidance_input"]
    third = with_inputs(timed, guidance_input=True)
    assert third.two_time and third.net.config["guidance_input"] and third.net.config["two_time"]
    again = with_inputs(guided, guidance_input=True)  # it takes one already
    assert again.net is not guided.net and again.net.config == guided.net.config
    both_new = with_inputs(teacher, two_time=True, guidance_input=True)
    assert both_new.two_time and both_new.net.config["two_time"] and both_new.net.config["guidance_input"]


def test_what_can_not_be_given_inputs():
    with pytest.raises(StillhouseError, match="closed-form teacher has no network"):
        with_inputs(make_mixture().exact(Flow()), two_time=True)
    with pytest.raises(StillhouseError, match="An adapter has the inputs of its base"):
        teacher = Denoiser(build_model({"name": "mlp", "width": 16, "depth": 2}), Flow())
        with_inputs(adapted(teacher, 2).copy(), two_time=True)


def test_a_scene_has_no_widths():
    with pytest.raises(StillhouseError, match="'voxels' can't be made smaller"):
        shrunk(Denoiser(build_model({"name": "voxels"}), Flow(), "x0"), 0.5)
