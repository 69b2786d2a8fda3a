"""Guidance folded into an adapter: one set of weights is teacher and student, and the target is read with the
adapter off."""

import pytest
import torch

from stillhouse.adapters import Adapted, adapted
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow, ScaledLinearVP
from stillhouse.models import build_model
from stillhouse.systems.trajectory.lora_distill import LoraDistill
from stillhouse.train.batch import Batch
from stillhouse.worlds.base import get_world

WORLD, FLOW = get_world("mixture"), Flow()
X, T, LABELS = Draws(64, "x").normal(2), torch.linspace(0.05, 1, 64), torch.arange(64) % 8


def stirred(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return module


def ready(process=FLOW, kind="velocity", conditional=True, teacher=None, **options):
    method = LoraDistill(**{"guidance": 3.0, **options})
    teacher = teacher or stirred(WORLD.network(process, 0, kind=kind, width=16, depth=1))
    method.setup(teacher, method.make_student(teacher), WORLD.shape, conditional)
    method.student.requires_grad_(True)  # as the loop does in its turn
    return method


def batch_of(rows=64):
    x, labels = WORLD.sample_data(rows, Draws(rows, "data"))
    return Batch(
        0, rows, WORLD.shape, x, labels, ("student",), lambda name: Draws(rows, 0, name), player="student"
    )


def test_the_target_is_the_guided_output_of_the_weights_without_the_adapter():
    method = ready()
    empty, pred = (method.teacher(X, T, c).raw for c in (None, LABELS))
    target = empty + 3 * (pred - empty)
    torch.testing.assert_close(method.guide(X, T, LABELS).raw, target)
    torch.testing.assert_close(method.student(X, T, LABELS).raw, pred)  # without effect at the start
    stirred(method.student, 1)
    assert (method.student(X, T, LABELS).raw - pred).abs().max() > 1e-2
    assert torch.equal(method.guide(X, T, LABELS).raw, target) or torch.allclose(
        method.guide(X, T, LABELS).raw, target, atol=1e-6
    )
    assert method.student.base.active is None  # and nothing is left switched on


def test_only_the_adapter_learns():
    method = ready()
    base = {k: v.clone() for k, v in method.student.base.net.state_dict().items() if "lora" not in k}
    optimiser = torch.optim.Adam(method.student.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = method.student_loss(batch_of())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    after = method.student.base.net.state_dict()
    assert losses[-1] < 0.5 * losses[0] and all(torch.equal(v, after[k]) for k, v in base.items())


def test_the_loss_is_on_the_networks_own_output():
    method, batch = ready(ScaledLinearVP(), "eps"), batch_of()
    draws = Draws(64, 0, "student")
    t = (draws.uniform() * 1000).ceil().clamp_min(1) / 1000  # the table's own steps
    x_t = method.process.noise(batch.data, t, draws.normal(2))
    expected = (method.student(x_t, t, batch.cond).raw - method.guide(x_t, t, batch.cond).raw).square().mean()
    torch.testing.assert_close(method.student_loss(batch), expected)


def test_an_adapted_teacher_gives_the_student_its_own_rank():
    teacher = adapted(stirred(WORLD.network(Flow(), 0, width=16, depth=1)), 7)
    student = LoraDistill(rank=2).make_student(teacher)
    assert isinstance(student, Adapted) and student.base is teacher.base and student.base.rank == 7
    assert ready(rank=2).student.base.rank == 2


def test_it_runs_on_a_pipeline(tmp_path):
    from stillhouse.io.pipelines import open_pipeline
    from stillhouse.io.pipelines.tiny import build

    family = open_pipeline(build("sd", tmp_path / "sd"))
    teacher, method = family.denoiser(), LoraDistill(guidance=7.5)
    method.setup(teacher, method.make_student(teacher), family.shape, True)
    method.student.requires_grad_(True)
    x, cond = Draws(2, "x").normal(*family.shape), family.encode(["a cat", "a dog"])
    loss = method.student_loss(
        Batch(0, 2, family.shape, x, cond, ("student",), lambda name: Draws(2, 0, name), player="student")
    )
    loss.backward()
    touched = {name.rsplit("/", 2)[-2] for name in method.student.weights}
    assert touched <= {"to_q", "to_k", "to_v", "0"}
    assert any(float(p.grad.abs().sum()) > 0 for p in method.student.parameters())


def test_what_makes_no_sense_is_refused():
    network = WORLD.network(Flow(), 0, width=16, depth=1)
    method = LoraDistill()
    with pytest.raises(StillhouseError, match="give no network of your own"):
        method.setup(network, network.copy(), WORLD.shape, True)
    with pytest.raises(StillhouseError, match="needs conditions"):
        ready(conditional=False)
    hearing = Denoiser(
        build_model({"name": "mlp", "width": 16, "classes": 8, "guidance_input": True}), Flow()
    )
    with pytest.raises(StillhouseError, match="no second evaluation"):
        ready(teacher=hearing)
    with pytest.raises(StillhouseError, match="closed-form"):
        LoraDistill().make_student(WORLD.exact(Flow()))
