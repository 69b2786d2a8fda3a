"""What the loop does when things go wrong, and its switches."""

import os
import signal
from dataclasses import dataclass

import pytest
import torch

from stillhouse.errors import StillhouseError
from stillhouse.model import load
from stillhouse.process import Flow
from stillhouse.samplers.sampling import Sampling
from stillhouse.train import journal
from stillhouse.train.data import Endless
from stillhouse.train.denoising import Denoising
from stillhouse.train.ema import decay_at
from stillhouse.train.loop import Interrupted, Trainer
from stillhouse.train.method import Method, option
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world


def trainer(method=None, out=None, on_step=None, model="mlp", **recipe):
    world = get_world("mixture")
    teacher = load(world.network(Flow(), width=16, depth=1), shape=world.shape, classes=8)
    settings = Recipe(**{"steps": 8, "batch": 8, "save_every": 2, "log_every": 1, **recipe})
    return Trainer(method or Denoising(), teacher, Endless(world, labelled=True), settings, out=out, quiet=True, on_step=on_step)


@dataclass
class Breaks(Method):
    """Its loss is not a number from step ``at`` on."""

    at: int = option(5, "first bad step", low=0)

    def student_loss(self, batch):
        said = self.student(batch.data, torch.full((batch.rows,), 0.5), batch.cond).x0
        return said.square().mean() * (float("nan") if batch.step >= self.at else 1.0)

    def samplings(self):
        return {1: Sampling([1.0, 0.0])}


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(tmp_path):
    with pytest.raises(StillhouseError) as caught:
        trainer(Breaks(), tmp_path / "run").fit()
    message = str(caught.value)
    assert "'student'" in message and "step 5" in message and "step-00000004" in message
    assert not (tmp_path / "run/model").exists()


def test_or_the_step_is_skipped(tmp_path):
    run = trainer(Breaks(), None, nonfinite="skip")
    student = run.fit()
    other = trainer(Breaks(), None, nonfinite="skip", steps=8)
    for step in range(5):
        other.iterate(step) if step else (other.prepare(), other.iterate(0))
    assert all(torch.equal(a, b) for a, b in zip(student.denoiser.parameters(), other.student().denoiser.parameters(), strict=True))


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path):
    whole = trainer(save_every=0).fit()

    def press(run, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="Stopped after step 4 of 8, all saved"):
        trainer(None, tmp_path / "run", press, save_every=0).fit()
    assert signal.getsignal(signal.SIGINT) is handler
    student = trainer(None, tmp_path / "run", save_every=0).fit(resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.denoiser.parameters(), student.denoiser.parameters(), strict=True))
    steps = [row["step"] for row in journal.read(tmp_path / "run/metrics.jsonl") if "seconds" in row]
    assert steps == list(range(8))


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(StillhouseError, match="not empty"):
        trainer(None, tmp_path).fit()
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_other_settings_can_t_resume(tmp_path):
    trainer(None, tmp_path / "run").fit()
    with pytest.raises(StillhouseError, match="other settings.*batch"):
        trainer(None, tmp_path / "run", batch=16).fit(resume=True)


def test_bf16_stays_close_and_keeps_float32_weights():
    plain, half = trainer(steps=3).fit(), trainer(steps=3, precision="bf16")
    student = half.fit()
    assert all(p.dtype == torch.float32 for p in student.denoiser.parameters())
    pairs = zip(plain.denoiser.parameters(), student.denoiser.parameters(), strict=True)
    gaps = [(a - b).abs().max().item() for a, b in pairs]
    assert 0 < max(gaps) < 0.02


def test_activation_checkpointing_changes_nothing():
    plain, saved = trainer(steps=3).fit(), trainer(steps=3, checkpoint_activations=True)
    student = saved.fit()
    assert saved.method.student.net.checkpointing
    for a, b in zip(plain.denoiser.parameters(), student.denoiser.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_half_precision_is_refused_without_a_gpu():
    if not torch.cuda.is_available():
        with pytest.raises(StillhouseError, match="fp16.*GPU"):
            trainer(precision="fp16")


def test_averages_follow_their_formulas():
    fixed = Recipe(ema=0.9)
    assert decay_at(fixed, 0) == pytest.approx(1 / 10) and decay_at(fixed, 10_000) == 0.9
    power = Recipe(ema_power=6.94)
    assert decay_at(power, 0) == 0 and decay_at(power, 99) == pytest.approx(0.99**7.94)
    half = Recipe(batch=100, ema_half_life=1000, ema_ramp=0.05)
    assert decay_at(half, 10_000) == pytest.approx(0.5 ** (100 / 1000))
    assert decay_at(half, 9) == pytest.approx(0.5 ** (100 / 50))  # ramp: 5 % of the 1,000 samples seen


def test_a_player_s_rate_follows_its_schedule():
    run = trainer(steps=20, schedule="linear", warmup=4, lr={"student": 1.0})
    rates = [run.players["student"].schedule(step, 20) for step in range(20)]
    assert rates[0] == pytest.approx(0.25) and rates[3] == pytest.approx(1 - 3 / 20) and rates[10] == pytest.approx(0.5)
    run = trainer(steps=20, schedule="cosine", warmup=0, lr={"student": 1.0})
    assert run.players["student"].schedule(10, 20) == pytest.approx(0.5)


BAD = [{"steps": 0}, {"batch": 0}, {"batch": 9, "accumulate": 2}, {"precision": "fp8"}, {"ema": 1.0}, {"nonfinite": "cry"}]


@pytest.mark.parametrize("bad", BAD)
def test_bad_recipes_are_refused(bad):
    with pytest.raises(StillhouseError):
        Recipe(**bad)
