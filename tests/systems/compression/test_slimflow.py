"""The formulas of slimflow: the fading noise, the two-step target, who starts from whom."""

import pytest
import torch

from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Flow
from stillhouse.opening import load
from stillhouse.systems.compression.slimflow import SlimFlow
from stillhouse.train.batch import Batch
from stillhouse.train.data import NoData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)
WORLD = get_world("mixture", radius=1.5, std=0.2)


def batch(step=0, rows=64, bank=None, shape=(2,)):
    return Batch(
        step,
        rows,
        shape,
        None,
        None,
        ("student",),
        lambda name: Draws(rows, step, name),
        bank,
        within=step,
        player="student",
    )


def made(total=100, **options):
    method = SlimFlow(**options)
    student = WORLD.network(Flow(), width=16, depth=1)
    for p in student.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    method.setup(WORLD.exact(Flow()), student, WORLD.shape, 0, total)
    return method


def test_noise_fades_from_fresh_to_the_pairs_own_and_keeps_its_variance(monkeypatch):
    method = made(total=100, reflow_share=0.5, anneal=0.6)
    assert [method.fading(step) for step in (0, 15, 30, 49)] == [1.0, 0.5, 0.0, 0.0]
    assert made(anneal=0.0).fading(0) == 0.0
    seen, noised = [], Flow.noise
    monkeypatch.setattr(Flow, "noise", lambda self, x, t, eps: seen.append(eps) or noised(self, x, t, eps))
    eps = Draws(4096, "eps").normal(2)
    for step in (0, 15, 30):
        method.reflow(batch(step, 4096), eps, torch.zeros(4096, 2))
    kept = [float((mixed * eps).mean()) for mixed in seen]
    assert all(abs(float(mixed.std()) - 1) < 0.03 for mixed in seen)
    assert kept == pytest.approx([0.0, 0.75**0.5, 1.0], abs=0.03)


def test_a_straight_guide_is_met_by_its_own_single_call():
    """Where the reflowed field is straight, two steps land where one does, and the loss on fresh noise
    vanishes."""
    method = made()
    x = torch.tensor([0.7, -0.3])

    class Straight(torch.nn.Module):  # a field that leads every point to one place
        def forward(self, x_t, t, cond=None):
            return (x_t - x) / t[:, None]

    for model in (method.student, method.guide):
        model.net = Straight()
    eps = Draws(64, "eps").normal(2)
    assert float(method.distil(batch(), eps, x.expand(64, 2))) < 1e-10
    assert float(method.distil(batch(), eps, x.expand(64, 2) + 1)) == pytest.approx(1.0, rel=1e-4)


def test_image_and_noise_are_mirrored_together():
    rows = {"eps": torch.arange(128.0).reshape(32, 1, 2, 2), "x": -torch.arange(128.0).reshape(32, 1, 2, 2)}
    method = made(flip=True)
    pair = method.mirrored(batch(rows=32, bank=lambda draws: dict(rows), shape=(1, 2, 2)))
    assert torch.equal(pair["x"], -pair["eps"])
    turned = (pair["eps"] == rows["eps"].flip(-1)).flatten(1).all(1)
    kept = (pair["eps"] == rows["eps"]).flatten(1).all(1)
    assert bool((turned ^ kept).all()) and 8 <= int(turned.sum()) <= 24


def test_two_stages_share_the_run():
    def lengths(total, **options):
        return [stage.length for stage in SlimFlow(**options).stages(total)]

    assert lengths(20, reflow_share=0.3) == [6, 14] and lengths(10, reflow_share=0.01) == [1, 9]
    assert lengths(2) == [1, 1]


def test_the_second_stage_starts_from_the_average_of_the_first():
    method, seen = SlimFlow(pairs=64, pair_steps=4, reflow_share=0.5), {}
    teacher = load(WORLD.exact(Flow()), shape=WORLD.shape)
    enter = method.enter

    def watched(stage):
        enter(stage)
        seen[stage] = [
            {k: v.clone() for k, v in m.state_dict().items()}
            for m in (method.student, method.guide, method.reflowed)
        ]

    method.enter = watched
    start = WORLD.network(Flow(), width=16, depth=1)
    Trainer(method, teacher, NoData(WORLD.shape), Recipe(steps=20, batch=16), student=start, quiet=True).fit()
    student, guide, reflowed = seen[1]
    assert all(torch.equal(student[k], reflowed[k]) and torch.equal(guide[k], reflowed[k]) for k in reflowed)
    after = method.guide.state_dict()
    assert all(torch.equal(after[k], guide[k]) for k in guide) and any(
        not torch.equal(student[k], v) for k, v in method.student.state_dict().items()
    )


def test_the_student_is_smaller_and_a_flow_whatever_the_teacher_is():
    teacher = WORLD.network(VE(), kind="edm", width=64, depth=4)
    student = SlimFlow(size=0.25).make_student(teacher)
    count = [sum(p.numel() for p in d.parameters()) for d in (teacher, student)]
    assert count[1] < count[0] / 8 and student.process == Flow() and student.net.config["width"] == 16
    with pytest.raises(StillhouseError, match="flow"):
        SlimFlow().setup(teacher, WORLD.network(VE(), width=16, depth=1), WORLD.shape)
    with pytest.raises(StillhouseError, match="too few"):
        SlimFlow(reflow_share=0.99).stages(1)


def test_pairs_are_where_the_teachers_own_path_ends():
    method = made(pairs=8)
    pair = method.bank_rows(Draws(8, "pairs"), None)
    assert torch.allclose(pair["x"], WORLD.endpoint(Flow(), pair["eps"]), atol=1e-3)
    assert float(pair["eps"].std()) == pytest.approx(1, abs=0.4)
