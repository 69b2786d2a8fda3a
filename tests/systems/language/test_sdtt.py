"""SDTT: its targets, its rounds, who learns, and what it refuses."""

import pytest
import torch

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.discrete import Masked, Uniform
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.token_prediction import of_words
from stillhouse.opening import load
from stillhouse.solvers.tokens import Ancestral
from stillhouse.systems.language.sdtt import SDTT
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.text.chain import Chain

torch.set_num_threads(1)
WORLD, PROCESS = Chain(), Masked(6)


def ready(teacher=None, **options) -> SDTT:
    method = SDTT(**{"teacher_steps": 12, "rounds": 3, **options})
    student = WORLD.network(PROCESS, 0, width=16, depth=1)
    method.setup(teacher or WORLD.exact(PROCESS), student, WORLD.shape, total=30)
    return method


def batch_of(rows=16, step=0) -> Batch:
    x, _ = WORLD.sample_data(rows, Draws(rows, "data", step))
    return Batch(
        step, rows, WORLD.shape, x, None, ("student",), lambda name: Draws(rows, step, name), player="student"
    )


def masked(n, t, seed=0):
    x, _ = WORLD.sample_data(n, Draws(n, "x", seed))
    times = torch.full((n,), t, dtype=torch.float64)
    return PROCESS.noise(x, times, Draws(n, "u", seed).uniform(0, 1, 12, dtype=torch.float64)), times


@pytest.mark.parametrize("substeps", [2, 3, 4])
def test_every_position_keeps_what_was_last_said_of_it_before_it_was_unmasked(substeps):
    """Against the algorithm box, by hand: walk, store at what each step unmasks, and the last answer for the
    rest."""
    method = ready(substeps=substeps, rounds=1)
    x_t, t = masked(64, 0.7)
    pred = method.target(x_t, t, None, Draws(64, "walk"))
    draws, z, stored = Draws(64, "walk"), x_t, torch.full((64, 12, 6), torch.nan, dtype=torch.float64)
    for i in range(substeps):
        tau = t - i / 12
        answer = method.teacher(z, tau)
        now = Ancestral().step(
            lambda *_, answer=answer: answer, z, tau, tau - 1 / 12, type("History", (), {"left": 1})(), draws
        )
        unmasked = (z == 6) & (now != 6) if i < substeps - 1 else z == 6
        stored[unmasked] = answer.log_probs[unmasked]
        z = now
    hidden = x_t == 6
    assert not stored[hidden].isnan().any()
    torch.testing.assert_close(pred[hidden], stored[hidden], atol=1e-12, rtol=0)
    changed = (pred[hidden] - method.teacher(x_t, t).log_probs[hidden]).abs().amax(-1) > 1e-6
    assert 0.2 < changed.double().mean() < 1  # the walk did teach something


def test_the_expected_target_is_the_teachers_first_answer():
    """The tower property, and so the reason why forward KL teaches nothing; the mean of the logarithms is
    another one, and sharper."""
    method, n = ready(teacher_steps=2, rounds=1), 8000
    x_t, t = torch.full((n, 12), 6), torch.ones(n, dtype=torch.float64)
    x_t[:, 3], x_t[:, 8] = 0, 5
    target = method.target(x_t, t, None, Draws(n, "walk"))
    first = method.teacher(x_t[:1], t[:1]).log_probs[0]
    hidden = x_t[0] == 6
    torch.testing.assert_close(target.exp().mean(0)[hidden], first.exp()[hidden], atol=0.02, rtol=0)
    geometric = target.clamp_min(-30).mean(0).log_softmax(-1)[hidden]
    entropy = lambda p: -(p.exp() * p).sum(-1).mean()  # noqa: E731
    assert entropy(geometric) < entropy(first[hidden]) - 0.01


def test_steps_that_would_pass_zero_end_there():
    method = ready(teacher_steps=2, rounds=1)
    x_t, _ = masked(32, 0.2)
    target = method.target(x_t, torch.full((32,), 0.2, dtype=torch.float64), None, Draws(32, "walk"))
    assert not target.isnan().any() and (target[x_t == 6].exp().sum(-1) - 1).abs().max() < 1e-9
    # near the end a step leads to t_min and no further: half of the masks stay at half of the level
    x_t, t = torch.full((64, 12), 6), torch.full((64,), 2e-3, dtype=torch.float64)
    target, first = method.target(x_t, t, None, Draws(64, "walk")), method.teacher(x_t, t).log_probs
    stays = ((target - first).abs().amax(-1) > 1e-6).double().mean()
    assert float(stays) == pytest.approx(0.5, abs=0.07)


def test_rounds_lengthen_the_step_and_hand_the_student_on():
    method = ready(teacher_steps=32, rounds=3)
    method.plan = method.stages(100)
    assert [stage.length for stage in method.plan] == [33, 33, 34]
    assert sum(stage.length for stage in method.stages(1000)) == 1000
    assert method.dt == 1 / 32
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(0.1)
    x_t, t = masked(8, 0.5)
    method.enter(1)
    method.stage = 1
    assert method.dt == 1 / 16
    asked = method.previous.calls
    method.target(x_t, t, None, Draws(8, "walk"))
    assert method.previous.calls == asked + 2 and method.teacher.calls == 0
    assert torch.equal(
        of_words(method.previous(x_t, t)).log_probs, of_words(method.student(x_t, t)).log_probs
    )
    with pytest.raises(StillhouseError, match="too few for 3 rounds"):
        method.stages(2)


def test_the_next_teacher_may_be_the_students_average():
    method = ready(teacher_ema=0.5)
    weight = method.student.net.output.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    method.emas["next_teacher"].follow(0)
    method.enter(1)
    torch.testing.assert_close(method.previous.net.output.weight, before + 0.5)


class Conditional(torch.nn.Module):
    """A network of tokens that takes a condition and does without it."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(7, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, x, t, cond=None, **_):
        return self.table[x]


def test_teacher_and_student_have_the_condition_of_their_rows():
    teacher, student = Denoiser(Conditional(), PROCESS, "logits"), Denoiser(Conditional(), PROCESS, "logits")
    method, met = SDTT(teacher_steps=12, rounds=2, substeps=3), []
    method.setup(teacher, student, WORLD.shape, total=30)
    for net in (method.teacher, method.previous, method.student):
        net.register_forward_pre_hook(lambda module, args: met.append((module, args[2])))
    for stage, source in ((0, method.teacher), (1, method.previous)):
        method.stage, batch = stage, batch_of()
        batch.cond = torch.arange(16)
        met.clear()
        method.student_loss(batch)
        assert [module for module, _ in met] == [source] * 3 + [method.student]
        assert all(cond is batch.cond for _, cond in met)


def test_a_student_that_says_the_targets_has_no_loss():
    """Where one step unmasks nothing more, the exact teacher teaches itself."""
    method = ready(teacher_steps=10**6, rounds=1)
    method.student = WORLD.exact(PROCESS)
    assert abs(float(method.student_loss(batch_of()))) < 1e-3


def test_a_short_run_ends_with_a_student_of_fewer_steps():
    teacher = WORLD.network(PROCESS, 1, width=16, depth=1)
    recipe = Recipe(steps=6, batch=8, lr={"student": 1e-3})
    student = Trainer(
        SDTT(16, rounds=2), load(teacher, shape=WORLD.shape), InfiniteData(WORLD), recipe, quiet=True
    ).fit()
    assert list(student.samplings) == [4] and student.free_steps and student.form == "text"
    x = student.sample(5, steps=3)
    assert x.shape == (5, 12) and x.dtype == torch.int64 and int(x.max()) < 6
    start = torch.full((5, 12), 6)
    start[:, :4] = torch.tensor([0, 5, 1, 4])
    assert torch.equal(student.sample(5, start=start)[:, :4], start[:, :4])


@pytest.mark.parametrize(
    ("steps", "substeps", "rounds", "left"),
    [(4, 2, 3, 1), (125, 5, 4, 1), (1000, 10, 4, 1), (16, 2, 2, 4), (81, 3, 3, 3), (3, 3, 1, 1)],
)
def test_the_last_round_may_take_one_step_over_all_of_time(steps, substeps, rounds, left):
    method = ready(teacher_steps=steps, substeps=substeps, rounds=rounds)
    assert list(method.samplings()) == [left]


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: SDTT(teacher_steps=4, rounds=4), "4 rounds from 4 steps"),
        (lambda: SDTT(teacher_steps=7, rounds=4), "4 rounds from 7 steps"),
        (lambda: SDTT(substeps=1), "at least 2"),
        (lambda: SDTT(divergence="kl"), "one of reverse_kl"),
        (
            lambda: SDTT(12, rounds=1).setup(
                WORLD.exact(Uniform(6)), WORLD.network(Uniform(6), width=16, depth=1), (12,)
            ),
            "masked tokens",
        ),
    ],
)
def test_bad_input_is_told(make, words):
    with pytest.raises(StillhouseError, match=words):
        make()
