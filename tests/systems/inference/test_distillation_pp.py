"""A teacher beside a student: what it costs, what is saved, whom it refuses."""

import pytest
import torch

from stillhouse.api.runs import distill
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow, Trig
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling, Stream
from stillhouse.systems.base import Work
from stillhouse.systems.inference.distillation_pp import DistillationPP
from stillhouse.train.data import NoData
from stillhouse.worlds.base import get_world

WORLD = get_world("mixture")
TIMES = [1.0, 0.6, 0.3, 0.0]


def student_model(process=None, seed=1, **given):
    network = WORLD.network(process or Flow(), seed, width=16, depth=1)
    walks = {3: Sampling(TIMES, "renoise"), 1: Sampling([1.0, 0.0], "renoise")}
    return Model(network, WORLD.shape, WORLD.classes, **{"samplings": walks, **given})


def teacher_model(process=None):
    return load(WORLD.network(process or Flow(), 0, width=16, depth=1), shape=WORLD.shape, classes=8)


def composed(teacher=None, student=None, **options):
    models = {"teacher": teacher or teacher_model(), "student": student or student_model()}
    return DistillationPP(**options).apply(models, Work(NoData(WORLD.shape, 8), quiet=True))


def test_the_correction_by_hand():
    """One guided step: the walk is the student's own, from the mixed estimate on."""
    made = composed(guided_steps=1, strength=0.25, guidance=1.0)
    labels = torch.arange(8)
    x = made.sample(8, labels, seed=4)
    draws, flow = Draws(8, 4, "sample"), Flow()
    probe = draws.stream("hook", 0, 0)
    state = flow.start(draws, WORLD.shape)
    student, teacher = made.denoiser, made.companions["teacher"]
    with torch.no_grad():
        for i, (t, s) in enumerate(zip(TIMES, TIMES[1:], strict=False)):
            clean = student(state, torch.full((8,), t), labels).x0
            if i == 0:
                at = torch.full((8,), s)
                answer = teacher(flow.noise(clean, at, probe.normal(2)), at, labels).x0
                clean = 0.75 * clean + 0.25 * answer
            state = flow.noise(clean, torch.full((8,), s), draws.normal(2)) if s else clean
    torch.testing.assert_close(x, state, atol=1e-5, rtol=0)


def test_it_costs_what_it_says():
    made = composed(guided_steps=2, guidance=3.0)
    assert made.sampling(3).nfe(made.denoiser, networks=made.networks) == 3 + 2 * 2
    # one step leads to the clean end, where a teacher can't be asked
    assert made.sampling(1).nfe(made.denoiser, networks=made.networks) == 1
    assert composed(guidance=1.0).sampling(3).nfe(made.denoiser, networks=made.networks) == 4


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(StillhouseError, match="teacher's process is 'trig', the student's 'flow'"):
        composed(teacher_model(Trig()))
    other = load(get_world("digits").network(Flow(), 0, channels=(8, 8)), shape=(1, 8, 8))
    with pytest.raises(StillhouseError, match="shape"):
        composed(other)
    with pytest.raises(StillhouseError, match="not a many-step model"):
        composed(student=student_model(free_steps=True))
    with pytest.raises(StillhouseError, match="nor a stream"):
        streaming = {1: Sampling([1.0, 0.0], "renoise", stream=Stream(2))}
        composed(student=student_model(samplings=streaming))
    with pytest.raises(StillhouseError, match="already"):
        composed(student=composed())


def test_one_verb_composes_saves_and_reopens(tmp_path):
    student_model().save_pretrained(tmp_path / "student")
    made = distill(
        "mixture",
        "distillation_pp",
        world="mixture",
        student=tmp_path / "student",
        out=tmp_path / "run",
        quiet=True,
    )
    again = load(tmp_path / "run" / "model")
    assert set(again.companions) == {"teacher"} and again.samplings == made.samplings
    assert torch.equal(again.sample(6, seed=2), made.sample(6, seed=2))
    with pytest.raises(StillhouseError, match="needs a student beside the teacher"):
        distill("mixture", "distillation_pp", world="mixture", out=tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()
