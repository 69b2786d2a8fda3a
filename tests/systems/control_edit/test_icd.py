"""Invertible consistency distillation: segments, the two maps and how they bind each other, guidance that
changes on the way, editing."""

import pytest
import torch
from torch import nn

from stillhouse.core.denoiser import Denoiser, count_calls
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import takes_guidance
from stillhouse.core.schedules import ScaledLinearVP
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.control_edit.icd import (
    ICD,
    boundaries,
    decode,
    dynamic,
    edit,
    encode,
    level_times,
)
from stillhouse.train.batch import Batch
from stillhouse.worlds.base import get_world

WORLD, TABLE, STD = get_world("mixture", classes=4), ScaledLinearVP(), 0.7
GAUSSIAN = get_world("mixture", layout="grid", side=1, std=STD)


def stirred(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return module


def ready(world=WORLD, conditional=True, student=None, **options):
    method = ICD(**{"segments": 3, "levels": 30, "high_guidance": 4.0, **options})
    size = {"width": 16, "depth": 1, "classes": 4, "guidance_input": method.high_guidance > 1}
    student = student or stirred(world.network(TABLE, 0, kind="v", **size))
    method.setup(world.exact(TABLE), student, world.shape, conditional, total=100)
    if method.companions and not isinstance(method.forward.net, GaussianMap):
        stirred(method.forward, 1)
    return method


def batch_of(rows=64, world=WORLD, player="student"):
    x, labels = world.sample_data(rows, Draws(rows, "data"))
    return Batch(
        0,
        rows,
        world.shape,
        x,
        labels,
        ("student", "forward"),
        lambda name: Draws(rows, 0, name),
        player=player,
    )


def model_of(method):
    return Model(
        method.student,
        WORLD.shape,
        4,
        method.samplings(),
        info=method.describe(),
        companions=method.companions,
    )


class GaussianMap(nn.Module):
    """What the clean estimate must be for a jump to a segment's end to follow the path of one Gaussian: the
    perfect student."""

    def __init__(self, bounds, up):
        super().__init__()
        self.scale, self.bounds, self.up = nn.Parameter(torch.ones(())), torch.tensor(bounds), up

    def forward(self, x, t, cond, **extra):
        place = torch.searchsorted(
            self.bounds, t.contiguous() - 1e-6 if not self.up else t.contiguous() + 1e-6
        )
        b = self.bounds[place.clamp(1, len(self.bounds) - 1) - (0 if self.up else 1)]
        spread = [(TABLE.alpha(v) ** 2 * STD**2 + TABLE.sigma(v) ** 2).sqrt() for v in (t, b)]
        ratio = TABLE.sigma(b) / TABLE.sigma(t)
        share = (spread[1] / spread[0] - ratio) / (TABLE.alpha(b) - ratio * TABLE.alpha(t))
        return self.scale * share[:, None] * x


def test_boundaries_and_levels_are_the_papers():
    assert boundaries(4, 50) == [0, 13, 25, 38, 50] and boundaries(1, 7) == [0, 7]
    index = level_times(TABLE, 50)[1:] * 1000 - 1
    torch.testing.assert_close(index, torch.arange(19.0, 1000, 20))
    assert ICD().segments == 4 and ICD(segments=5, levels=10).levels == 10


def test_the_student_takes_a_scale_where_it_is_to_learn_several():
    teacher = WORLD.network(TABLE, 0, kind="v", width=16, depth=1, classes=4)
    made = [takes_guidance(ICD(high_guidance=high).make_student(teacher)) for high in (1.0, 1.5)]
    assert made == [False, True]


def test_the_true_maps_have_next_to_no_loss():
    bounds = level_times(TABLE, 240)[boundaries(3, 240)].tolist()

    def losses(scale, levels=240):
        nets = [GaussianMap(bounds, up) for up in (False, True)]
        for net in nets:
            nn.init.constant_(net.scale, scale)
        method = ready(GAUSSIAN, False, Denoiser(nets[0], TABLE, "x0"), levels=levels, high_guidance=1.0)
        method.forward.net = nets[1]
        return [
            float(getattr(method, f"{p}_loss")(batch_of(4096, GAUSSIAN, p)).detach())
            for p in ("student", "forward")
        ]

    true, wrong = losses(1.0), losses(0.8)
    # what is left is the DDIM steps' own error, and the lowest level that the last segment leaves out
    assert all(t < 0.015 for t in true) and all(w > 8 * t for w, t in zip(wrong, true, strict=True))


def asked(method, name):
    """Times and boundaries of a map's jumps, and what it is told as guidance."""
    seen, denoiser = [], getattr(method, name)
    denoiser.register_forward_pre_hook(
        lambda m, args, extra: seen.append((args[1].clone(), extra.get("guidance"))), with_kwargs=True
    )
    return seen


def test_the_reverse_map_is_guided_and_the_forward_map_is_not():
    method = ready(scales=4)
    down, up = asked(method, "student"), asked(method, "forward")
    method.loss("student", batch_of(256))
    scales = next(w for _, w in down if w is not None).unique()
    torch.testing.assert_close(scales, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    none = lambda w: w is None or bool((w == 1).all())  # noqa: E731
    assert [none(w) for _, w in down] == [False, False, True] and all(none(w) for _, w in up)
    assert all(float(t.min()) >= 1 / 30 - 1e-6 for t, _ in down)
    down.clear()
    plain = asked(method, "teacher")
    method.loss("forward", batch_of(256))
    assert all(none(w) for _, w in [*up, *down]) and len(plain) == 1  # no second evaluation
    # the noise of a clean picture is nobody's to know
    assert all(float(t.min()) >= 1 / 30 - 1e-6 for t, _ in [*up, *down])


@pytest.mark.parametrize("high", [1.0, 1.5])
def test_a_network_that_takes_the_scale_is_given_it_only_while_scales_are_learnt(high):
    size = {"width": 16, "depth": 1, "classes": 4, "guidance_input": True}
    teacher = WORLD.network(TABLE, 0, kind="v", **size)
    method = ICD(segments=3, levels=30, high_guidance=high)
    method.setup(teacher, method.make_student(teacher), WORLD.shape, True, total=100)
    seen = [*(asked(method, name) for name in ("student", "forward", "teacher"))]
    for player in ("student", "forward"):
        method.loss(player, batch_of(player=player))
    assert all(calls and all((w is not None) == (high > 1) for _, w in calls) for calls in seen)


def test_each_loss_teaches_its_own_map_alone():
    for player, mine, other in (("student", "student", "forward"), ("forward", "forward", "student")):
        method = ready()
        method.loss(player, batch_of()).backward()
        assert all(p.grad is None for p in getattr(method, other).parameters())
        learnt = [p.grad for n, p in getattr(method, mine).named_parameters() if "guidance" not in n]
        assert all(g is not None and torch.isfinite(g).all() for g in learnt)


def test_guidance_is_off_at_high_noise_and_on_at_low():
    assert dynamic([1.0, 0.75, 0.7, 0.2], 8.0, 0.7) == [1.0, 1.0, 8.0, 8.0]
    ramp = dynamic([1.0, 0.7, 0.5, 0.3, 0.1], 8.0, 0.7, ramp=0.4)
    assert ramp == pytest.approx([1.0, 1.0, 4.5, 8.0, 8.0])
    with pytest.raises(StillhouseError, match="0 or more, not -0.1"):
        dynamic([1.0], 8.0, 0.7, ramp=-0.1)


def test_samples_are_walked_down_the_boundaries_at_the_middle_scale():
    (way,) = ready(high_guidance=4.0).samplings().items()
    times = level_times(TABLE, 30)[[30, 20, 10, 0]].tolist()
    assert way == (3, Sampling(times, "ddim", 2.5))


def jumped(model, x, times, labels, scales):
    """``alpha_s x0 + sigma_s eps`` from time to time, at a scale each."""
    for t, s, w in zip(times[:-1], times[1:], scales, strict=True):
        t, s, w = (torch.full((len(x),), v) for v in (t, s, w))
        pred = model(x, t, labels, guidance=w)
        x = TABLE.alpha(s)[:, None] * pred.x0 + TABLE.sigma(s)[:, None] * pred.eps
    return x


def test_editing_is_three_calls_up_and_three_down():
    method = ready()
    model, x = model_of(method), Draws(16, "x").normal(2)
    labels = torch.arange(16) % 4
    with count_calls(method.forward) as up, count_calls(method.student) as down:
        made = edit(model, x, labels, (labels + 1) % 4, guidance=4.0)
    assert up() == down() == 3 and torch.isfinite(made).all()
    assert torch.equal(encode(model, x, labels), encode(model, x, labels))
    assert not torch.equal(encode(model, x, labels), encode(model, x, labels, seed=1))
    noise = encode(model, x, labels)
    start = TABLE.noise(x, torch.full((16,), 0.034), Draws(16, 0, "encode").normal(2))
    with torch.no_grad():
        by_hand = jumped(method.forward, start, [0.034, 0.334, 0.667, 1.0], labels, [1.0, 1.0, 1.0])
        down_by_hand = jumped(method.student, noise, [1.0, 0.667, 0.334, 0.0], labels, [1.0, 4.0, 4.0])
    torch.testing.assert_close(noise, by_hand)
    torch.testing.assert_close(decode(model, noise, labels, guidance=4.0), down_by_hand)
    assert not noise.requires_grad and not made.requires_grad
    way = {"guidance": 3.0, "until": 0.5, "ramp": 0.4}
    by_hand = decode(model, encode(model, x, labels, seed=5), labels, **way)
    assert torch.equal(edit(model, x, labels, labels, **way, seed=5), by_hand)


def test_a_scale_goes_to_the_maps_that_learnt_one():
    """Of a teacher without a scale the forward map has none; where no scale is learnt, none is given to a
    network that takes it."""
    x, labels = Draws(4, "x").normal(2), torch.arange(4)

    def scales(teacher_takes, high):
        size = {"width": 16, "depth": 1, "classes": 4}
        teacher = stirred(WORLD.network(TABLE, 0, kind="v", **size, guidance_input=teacher_takes))
        method = ICD(segments=3, levels=30, high_guidance=high)
        method.setup(teacher, method.make_student(teacher), WORLD.shape, True, total=100)
        down, up = asked(method, "student"), asked(method, "forward")
        model = model_of(method)
        decode(model, encode(model, x, labels), labels, guidance=high)
        return [[None if w is None else w.unique().tolist() for _, w in seen] for seen in (up, down)]

    assert scales(False, 1.5) == [[None] * 3, [[1.0], [1.5], [1.5]]]
    assert scales(True, 1.5) == [[[1.0]] * 3, [[1.0], [1.5], [1.5]]]
    assert scales(True, 1.0) == [[None] * 3] * 2


def test_both_maps_are_saved_and_read_back(tmp_path):
    model, x = model_of(ready()), Draws(8, "x").normal(2)
    model.save_pretrained(tmp_path / "model")
    again, labels = load(tmp_path / "model"), torch.arange(8) % 4
    assert torch.equal(encode(again, x, labels), encode(model, x, labels))
    assert torch.equal(
        edit(again, x, labels, labels, guidance=2.0), edit(model, x, labels, labels, guidance=2.0)
    )


def test_what_makes_no_sense_is_refused():
    with pytest.raises(StillhouseError, match="10 levels or more, not 8"):
        ICD(segments=5, levels=8)
    with pytest.raises(StillhouseError, match="needs conditions"):
        ready(conditional=False)
    plain = Model(ready().student, WORLD.shape, 4, ready().samplings())
    with pytest.raises(StillhouseError, match="no map from data to noise"):
        encode(plain, torch.zeros(2, 2))
    size = {"width": 16, "depth": 1, "classes": 4}
    for takes in (False, True):
        student = WORLD.network(TABLE, 0, kind="v", **size, guidance_input=takes)
        plain = model_of(ready(student=student, high_guidance=1.0))
        with pytest.raises(StillhouseError, match="has learnt no guidance; a scale of 3"):
            decode(plain, torch.zeros(2, 2), guidance=3.0)


def test_it_runs_on_a_pipeline(tmp_path):
    from stillhouse.io.pipelines import open_pipeline
    from stillhouse.io.pipelines.tiny import build

    family = open_pipeline(build("sd", tmp_path / "sd"))
    method, teacher = ICD(segments=2, levels=10, high_guidance=8.0), family.denoiser()
    method.setup(teacher, method.make_student(teacher), family.shape, True)
    x, cond = Draws(2, "x").normal(*family.shape), family.encode(["a cat", "a dog"])
    batch = Batch(0, 2, family.shape, x, cond, ("student", "forward"), lambda name: Draws(2, 0, name))
    for player in method.turns(0):
        method.loss(player, batch).backward()
    assert float(method.student.net.time_embedding.cond_proj.weight.grad.abs().sum()) > 0
    assert any(float(p.grad.abs().sum()) > 0 for p in method.forward.parameters() if p.grad is not None)
    model = Model(
        method.student,
        family.shape,
        samplings=method.samplings(),
        info=method.describe(),
        companions=method.companions,
    )
    assert torch.isfinite(edit(model, x, cond, family.encode(["a dog", "a cat"]), guidance=8.0)).all()
