"""A teacher beside a student: what it costs, what is saved, whom it refuses."""

import pytest
import torch

from stillhouse.api.runs import distill
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import VE, Cosine, Flow, Trig
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Leg, Sampling, Stream
from stillhouse.systems.base import Work
from stillhouse.systems.inference.distillation_pp import DistillationPP
from stillhouse.train.data import NoData
from stillhouse.worlds.base import get_world

WORLD = get_world("mixture")
TIMES = [1.0, 0.6, 0.3, 0.0]


def network_of(process, seed):
    """A small network whose outputs depend on everything: layers that start at zero hide slips."""
    made, g = WORLD.network(process, seed, width=16, depth=1), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return made


def student_model(process=None, seed=1, **given):
    network = network_of(process or Flow(), seed)
    walks = {3: Sampling(TIMES, "renoise"), 1: Sampling([1.0, 0.0], "renoise")}
    return Model(network, WORLD.shape, WORLD.classes, **{"samplings": walks, **given})


def teacher_model(process=None):
    return load(network_of(process or Flow(), 0), shape=WORLD.shape, classes=8)


def composed(teacher=None, student=None, **options):
    models = {"teacher": teacher or teacher_model(), "student": student or student_model()}
    return DistillationPP(**options).apply(models, Work(NoData(WORLD.shape, 8), quiet=True))


def corrected(made, process, solver, options, labels):
    """The walk written out: the first steps' clean estimates are mixed with what the guided teacher makes of
    a noised copy of them; all else is the student's own."""
    draws, rows = Draws(8, 4, "sample"), len(labels)
    probes = draws.stream("hook", 0, 0)
    student, teacher = made.denoiser, made.companions["teacher"]
    first = torch.tensor([TIMES[0]], dtype=torch.float64)
    state = float(process.sigma(first)) * draws.normal(2)
    strength, w = options["strength"], options["guidance"]
    for k, (t, s) in enumerate(zip(TIMES, TIMES[1:], strict=False)):
        now, then = torch.full((rows,), t), torch.full((rows,), s)
        alpha, sigma = process.alpha(now)[:, None], process.sigma(now)[:, None]
        clean = student(state, now, labels).x0
        at = then if options["level"] == "next" else now
        if k < options["guided_steps"] and float(at[0]) > 0:
            x_s = process.alpha(at)[:, None] * clean + process.sigma(at)[:, None] * probes.normal(2)
            empty, full = (teacher(x_s, at, c).x0 for c in (None, labels))
            clean = (1 - strength) * clean + strength * (empty + w * (full - empty))
        if solver == "renoise" and s == 0:
            return clean
        noise = draws.normal(2) if solver == "renoise" else (state - alpha * clean) / sigma
        state = process.alpha(then)[:, None] * clean + process.sigma(then)[:, None] * noise
    return state


@pytest.mark.parametrize(
    ("process", "solver", "given"),
    [
        (Flow(), "renoise", {"guided_steps": 1, "strength": 0.25, "guidance": 1.0}),
        (Cosine(), "ddim", {"guided_steps": 2, "strength": 0.4, "guidance": 2.5}),
        (Flow(), "ddim", {"guided_steps": 9, "strength": 0.7, "guidance": 0.6, "level": "same"}),
        (VE(), "renoise", {"guided_steps": 2, "strength": 0.5}),
    ],
)
def test_the_correction_by_hand(process, solver, given):
    walks = {3: Sampling(TIMES, solver), 1: Sampling([1.0, 0.0], solver)}
    teacher = teacher_model(process)
    teacher.samplings = {n: s.changed(guidance=3.0) for n, s in teacher.samplings.items()}
    made = composed(teacher, student_model(process, samplings=walks), **given)
    labels = torch.arange(8)
    with torch.no_grad():
        wanted = corrected(made, process, solver, {"guidance": 3.0, "level": "next", **given}, labels)
    size = float(wanted.abs().max())
    torch.testing.assert_close(made.sample(8, labels, seed=4), wanted, atol=1e-5 * size, rtol=0)


def test_the_product_is_the_student_with_its_teacher_beside_it():
    clip, other = {"name": "clip", "bound": 2.0}, WORLD.network(Flow(), 5, width=8, depth=1)
    student = student_model(
        samplings={2: Sampling([1.0, 0.5, 0.0], "renoise").changed(hooks=[clip])},
        companions={"other": other},
        info={"method": "dmd", "note": "kept"},
    )
    teacher = teacher_model()
    made = composed(teacher, student, guided_steps=1)
    assert made.denoiser is student.denoiser and not made.free_steps
    assert made.companions == {"other": other, "teacher": teacher.denoiser}
    (hook, mine) = made.sampling(2).legs[0].hooks
    assert hook == clip and (mine["name"], mine["network"]) == ("distillation_pp", "teacher")
    assert made.info["note"] == "kept" and made.info["method"] == "distillation_pp"
    assert made.info["options"]["guided_steps"] == 1
    assert student.companions == {"other": other} and student.sampling(2).legs[0].hooks == [clip]


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
    with pytest.raises(StillhouseError, match="nor a stream"):
        legs = [Leg([1.0, 0.5], "renoise"), Leg([0.5, 0.0], "renoise")]
        composed(student=student_model(samplings={2: Sampling(legs=legs)}))
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
