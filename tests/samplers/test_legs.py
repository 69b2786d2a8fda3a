"""Several legs: other networks, sizes and processes on the way, hooks as saved data; and what each of them
costs."""

import math

import pytest
import torch

from stillhouse.api.models import open_model
from stillhouse.core.denoiser import Denoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import KINDS, At, Prediction
from stillhouse.core.schedules import Flow, LinearVP
from stillhouse.io.weights import save_module
from stillhouse.model import Model, Network
from stillhouse.models import build_model
from stillhouse.opening import load
from stillhouse.samplers.draw import draw_samples, handed_on
from stillhouse.samplers.hooks import Clip, TeacherMix, Walked, describe_hook, read_hook
from stillhouse.samplers.sampling import Leg, Sampling, Stream
from stillhouse.worlds.base import get_world

WORLD = get_world("mixture")
EXACT = WORLD.exact(Flow())


def draws(rows=64, *name):
    return Draws(rows, "legs", *name)


def drawn(sampling, model=EXACT, shape=(2,), networks=None, rows=64):
    return draw_samples(model, sampling, shape, None, draws(rows), networks=networks or {})


def test_one_walk_cut_in_two_legs_is_the_same_walk():
    whole = Sampling([1.0, 0.75, 0.5, 0.25, 0.0], "ddim")
    cut = Sampling(legs=[Leg([1.0, 0.75, 0.5]), Leg([0.5, 0.25, 0.0])])
    assert cut.count == whole.count == 4 and not cut.plain and whole.plain
    torch.testing.assert_close(drawn(cut), drawn(whole), atol=1e-6, rtol=0)


def test_a_leg_may_be_walked_by_a_companion_of_another_process():
    other = WORLD.exact(LinearVP())
    middle = float(LinearVP().time(Flow().log_snr(torch.tensor(0.5, dtype=torch.float64))))
    mixed = Sampling(
        legs=[Leg([1.0, 0.75, 0.5], "heun"), Leg([middle, middle / 2, 0.0], "heun", network="vp")]
    )
    with count_calls(EXACT) as first, count_calls(other) as second:
        made = drawn(mixed, networks={"vp": other})
    assert (first(), second()) == (4, 3) and mixed.nfe(EXACT, False, {"vp": other}) == 7
    fine = drawn(Sampling.steps(Flow(), 64))
    assert float((made - fine).square().sum(1).mean().sqrt()) < 1.0 < float(fine.std())
    with pytest.raises(StillhouseError, match="wants the companion 'vp'; the model has none"):
        drawn(mixed)


def test_a_later_leg_starts_anew_from_the_clean_end():
    again = Sampling(legs=[Leg([1.0, 0.5, 0.0]), Leg([0.4, 0.2, 0.0])])
    made = drawn(again)
    once = drawn(Sampling([1.0, 0.5, 0.0]))
    assert made.shape == once.shape and not torch.equal(made, once)
    noise = torch.zeros(4, 2)
    up = handed_on(noise, Flow(), 0.2, Flow(), Leg([0.6, 0.0]), (2,), draws(4))
    wanted = math.sqrt(0.6**2 - (0.4 / 0.8 * 0.2) ** 2)
    assert torch.allclose(up, wanted * draws(4).normal(2), atol=1e-6)
    with pytest.raises(StillhouseError, match="can't start at 0.1, below the end"):
        handed_on(noise, Flow(), 0.2, Flow(), Leg([0.1, 0.0]), (2,), draws(4))


def test_a_larger_leg_begins_from_the_enlarged_picture():
    net = Denoiser(
        build_model({"name": "unet", "image_channels": 1, "channels": (8, 8), "classes": 0}), Flow()
    )
    grown = Sampling(legs=[Leg([1.0, 0.5, 0.0], size=(8, 8)), Leg([0.5, 0.25, 0.0], size=(16, 16))])
    made = draw_samples(net, grown, (1, 16, 16), None, draws(2))
    assert made.shape == (2, 1, 16, 16) and torch.isfinite(made).all()
    early = Sampling(legs=[Leg([1.0, 0.5], size=(8, 8)), Leg([0.5, 0.0], size=(16, 16))])
    with pytest.raises(StillhouseError, match="another size starts from the clean end"):
        draw_samples(net, early, (1, 16, 16), None, draws(2))


def test_a_leg_may_run_a_part_of_the_network():
    net = build_model(
        {"name": "dit", "image_channels": 1, "patch": 2, "dim": 16, "heads": 2, "depth": 3, "classes": 0}
    )
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model = Denoiser(net, Flow())
    whole, part = (
        draw_samples(model, Sampling(legs=[Leg([1.0, 0.0], blocks=b)]), (1, 8, 8), None, draws(2))
        for b in (3, 1)
    )
    assert not torch.equal(whole, part) and len(net.blocks) == 3
    with pytest.raises(StillhouseError, match="has 3 blocks, not 4"):
        draw_samples(model, Sampling(legs=[Leg([1.0, 0.0], blocks=4)]), (1, 8, 8), None, draws(2))
    with pytest.raises(StillhouseError, match="no list of blocks"):
        drawn(Sampling(legs=[Leg([1.0, 0.0], blocks=1)]))


def test_legs_and_hooks_are_plain_data():
    hook = {"name": "clip", "quantile": 0.9}
    way = Sampling(
        legs=[
            Leg([1.0, 0.5], "heun", 2.0, hooks=[hook]),
            Leg([0.5, 0.0], network="fine", size=(4, 4), blocks=2),
        ]
    )
    assert Sampling.from_config(way.config()) == way
    assert way.changed(guidance=3.0).legs[1].guidance == 3.0 and way.changed(start=0.5).legs[1].start is None
    stream = Sampling([1.0, 0.0], "renoise", stream=Stream(2, 6, 1))
    assert Sampling.from_config(stream.config()) == stream
    before = {
        "times": [1.0, 0.0],
        "solver": "renoise",
        "guidance": 1.0,
        "start": None,
        "chunk": 2,
        "window": 6,
        "sink": 1,
    }
    assert Sampling.from_config(before) == stream
    for broken in (
        {"legs": []},
        {"legs": [{"solver": "ddim"}]},
        {"times": [1, 0], "speed": 2},
        {"legs": [{"times": [1, 0]}], "x": 1},
    ):
        with pytest.raises(StillhouseError, match="A sampling holds"):
            Sampling.from_config(broken)
    for hooks, sentence in (
        ([{"name": "clap"}], "did you mean 'clip'"),
        ([{"name": "clip", "quantile": 2}], "quantile"),
    ):
        with pytest.raises(StillhouseError, match=sentence):
            Leg([1.0, 0.0], hooks=hooks)
    assert read_hook(describe_hook(TeacherMix(steps=(0, 2)))) == TeacherMix(steps=(0, 2))


def test_clipping_holds_estimates_in_range():
    t = torch.full((3,), 0.5)
    at = At(Flow(), t, torch.zeros(3, 100))
    x = torch.linspace(-3, 3, 100).expand(3, 100)
    pred, walked = Prediction(x, KINDS["x0"](), at), Walked({}, None, draws(3), [1.0, 0.0])
    assert Clip().apply(pred, t, walked).x0.abs().max() == 1
    dynamic = Clip(0.9).apply(pred, t, walked).x0
    level = torch.quantile(x[0].abs(), 0.9)
    torch.testing.assert_close(dynamic, (x / level).clamp(-1, 1))


def test_a_teachers_correction_costs_what_it_says_and_draws_nothing_from_the_walk():
    student = WORLD.network(Flow(), 0, width=16, depth=1, classes=0)
    plain = Sampling([1.0, 0.75, 0.5, 0.25, 0.0], "renoise")
    mix = {"name": "distillation_pp", "strength": 0.5, "steps": [0, 1, 3]}
    way = plain.changed(hooks=[mix])
    with count_calls(student) as own, count_calls(EXACT) as its:
        drawn(way, student, networks={"teacher": EXACT})
    # the last of the three guided steps leads to the clean end, where nothing can be asked
    assert (own(), its()) == (4, 2) and way.nfe(student, False, {"teacher": EXACT}) == 6
    none = plain.changed(hooks=[{**mix, "strength": 0.0}])
    torch.testing.assert_close(
        drawn(none, student, networks={"teacher": EXACT}), drawn(plain, student), atol=1e-6, rtol=0
    )
    with pytest.raises(StillhouseError, match="hook 'distillation_pp' wants the companion 'teacher'"):
        drawn(way, student)


def test_companions_are_saved_beside_the_model(tmp_path):
    student, teacher = (WORLD.network(Flow(), seed, width=16, depth=1) for seed in (0, 1))
    way = Sampling(
        [1.0, 0.5, 0.0], "renoise", hooks=[{"name": "distillation_pp", "network": "guide", "steps": [0]}]
    )
    embed = build_model({"name": "mlp", "dim": 2, "width": 8, "depth": 1, "classes": 0})
    model = Model(student, (2,), WORLD.classes, {2: way}, companions={"guide": teacher, "embed": embed})
    model.save_pretrained(tmp_path / "both")
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == [
        "embed.safetensors", "guide.safetensors", "model.safetensors",
    ]  # fmt: skip
    again = load(tmp_path / "both")
    assert set(again.companions) == {"guide", "embed"} and set(again.networks) == {"guide"}
    assert torch.equal(again.sample(8, seed=3), model.sample(8, seed=3))
    (tmp_path / "both" / "guide.safetensors").unlink()
    with pytest.raises(StillhouseError, match="no weights file"):
        load(tmp_path / "both")
    with pytest.raises(StillhouseError, match="Only a denoiser or a network of ours"):
        Model(student, (2,), samplings={2: way}, companions={"x": torch.nn.Linear(1, 1)}).save_pretrained(
            tmp_path / "no"
        )


def test_a_plain_network_is_a_product_too(tmp_path):
    module = build_model({"name": "mlp", "dim": 2, "width": 8, "depth": 1, "classes": 0})
    product = Network(module, {"x": [2], "t": []}, {"y": [2]}, {"method": "some"})
    product.save_pretrained(tmp_path / "net")
    again = load(tmp_path / "net")
    x, t = torch.randn(3, 2), torch.rand(3)
    assert (
        torch.equal(again(x, t), product(x, t))
        and again.inputs == {"x": [2], "t": []}
        and again.info == {"method": "some"}
    )
    with pytest.raises(StillhouseError, match="holds a plain network, which makes no samples"):
        open_model(tmp_path / "net")
    save_module(tmp_path / "part.safetensors", module)
    with pytest.raises(StillhouseError, match="is a part of a model; open its folder"):
        load(tmp_path / "part.safetensors")
