"""The loop when things go wrong: losses that are no numbers, Ctrl-C, other people's folders, settings that do
not fit."""

import itertools
import json
import math
import os
import signal
from dataclasses import dataclass

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData, NoData
from stillhouse.train.loop import Interrupted, Trainer
from stillhouse.train.method import Method
from stillhouse.train.option import option
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)
WORLD = get_world("mixture")


@dataclass
class Fragile(Method):
    """Draws its student to the teacher's velocity; in one step the loss of a player, or its gradient,
    breaks."""

    when: int = option(99, "step", low=0)
    who: str = option("student", "player")
    what: str = option("loss", "what breaks")
    lasting: bool = option(False, "in every step from there on")

    def build(self):
        self.fake = self.player("fake", self.teacher.copy())

    def turns(self, step):
        return ["fake", "student"]

    def fake_loss(self, batch: Batch):
        return self.pull(self.fake, batch)

    def student_loss(self, batch: Batch):
        return self.pull(self.student, batch)

    def pull(self, model, batch):
        x, t = batch.noise(), batch.times(0.0, 1.0)
        pred, real = model(x, t).velocity, self.teacher(x, t).velocity
        loss = (pred - 0.5 * real).square().mean()
        broken = batch.step >= self.when if self.lasting else batch.step == self.when
        if broken and batch.player == self.who:
            return (
                loss * math.nan if self.what == "loss" else loss + (pred * 0).abs().sqrt().sum()
            )  # d sqrt at 0: inf * 0
        return loss

    def samplings(self):
        return {1: Sampling([1.0, 0.0], "ddim")}


def trainer(folder=None, on_step=None, data=None, method=None, **recipe):
    teacher = load(WORLD.network(Flow(), width=8, depth=1, classes=0), shape=WORLD.shape)
    for p in teacher.denoiser.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    settings = Recipe(**{"steps": 8, "batch": 8, "save_every": 2, "log_every": 1, **recipe})
    return Trainer(
        method or Fragile(),
        teacher,
        data or NoData(WORLD.shape),
        settings,
        out=folder,
        quiet=True,
        on_step=on_step,
    )


def weights(run):
    return {f"{n}/{k}": v.clone() for n, m in run.modules.items() for k, v in m.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("who", ["student", "fake"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_says_where(tmp_path, who, what):
    run = trainer(tmp_path / "run", method=Fragile(when=5, who=who, what=what))
    with pytest.raises(StillhouseError) as caught:
        run.fit()
    message = str(caught.value)
    assert f"The {what} of player '{who}'" in message and "nan" in message and "step 5" in message
    assert str(tmp_path / "run" / "checkpoints" / "step-00000004") in message
    assert all(torch.isfinite(v).all() for v in weights(run).values())
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(StillhouseError, match="there is no checkpoint yet"):
        trainer(method=Fragile(when=0, who=who, what=what)).fit()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_can_be_skipped(what, caplog):
    caplog.set_level("INFO", logger="stillhouse")
    before = {}

    def on_step(run, step):
        before[step] = {n: [p.clone() for p in player.parameters] for n, player in run.players.items()}

    run = trainer(method=Fragile(when=5, what=what), nonfinite="skip", on_step=on_step)
    run.fit()
    moved = {
        name: not all(torch.equal(a, b) for a, b in zip(before[4][name], before[5][name], strict=True))
        for name in run.players
    }
    assert moved == {"student": False, "fake": True}
    assert all(torch.isfinite(v).all() for v in weights(run).values())
    assert not all(torch.equal(a, b) for a, b in zip(before[5]["student"], before[6]["student"], strict=True))
    assert f"Step 5: the {what} of 'student' is not finite" in caplog.text


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_in_hand_saves_and_the_run_can_go_on(tmp_path, name):
    whole = trainer()
    whole.fit()
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def press(run, step):
        if step == 3:
            os.kill(os.getpid(), name)

    with pytest.raises(Interrupted, match="Stopped after step 5 of 8, all saved"):
        trainer(tmp_path / "run", on_step=press, save_every=0).fit()
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = trainer(tmp_path / "run", save_every=0)
    again.fit(resume=True)
    assert (
        same(weights(whole), weights(again)) and (tmp_path / "run" / "model" / "model.safetensors").exists()
    )
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if "seconds" in line
    ]
    assert steps == list(range(8))


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    run = trainer(tmp_path / "run", on_step=lambda _, step: step == 6 and os.kill(os.getpid(), signal.SIGINT))
    assert run.fit().samplings and (tmp_path / "run" / "model").exists()


def test_a_run_is_not_resumed_under_other_settings_nor_started_in_a_full_folder(tmp_path):
    trainer(tmp_path / "run").fit()
    with pytest.raises(StillhouseError, match="not empty"):
        trainer(tmp_path / "run").fit()
    with pytest.raises(StillhouseError, match=r"other settings \(batch, method\)"):
        trainer(tmp_path / "run", batch=16, method=Fragile(when=98)).fit(resume=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StillhouseError, match="is a file"):
        trainer(tmp_path / "file").fit()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_from_before_an_option_is_resumed_at_its_default(tmp_path):
    trainer(tmp_path / "run").fit()
    states = sorted((tmp_path / "run/checkpoints").glob("*/state.json"))
    for file in states:
        state = json.loads(json.loads(file.read_text())["state"])  # which once was the file itself
        assert state["run"]["method"]["options"].pop("what") == "loss"  # as if it had not been there
        file.write_text(json.dumps(state))
    assert trainer(tmp_path / "run").fit(resume=True).samplings
    with pytest.raises(StillhouseError, match=r"other settings \(method\)"):
        trainer(tmp_path / "run", method=Fragile(what="gradient")).fit(resume=True)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    digits = get_world("digits")
    for options, word in (
        ({"data": NoData(digits.shape)}, "shape"),
        ({"batch": 9, "grad_accum": 3, "lr": {"guide": 1.0}}, "No player 'guide'"),
        ({"precision": "fp16"}, "GPU"),
    ):
        with pytest.raises(StillhouseError, match=word):
            trainer(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_data_that_a_method_needs_must_be_there():
    class Needy(Fragile):
        needs = ("data",)

    with pytest.raises(StillhouseError, match="real data"):
        trainer(method=Needy())
    assert trainer(method=Needy(), data=InfiniteData(WORLD)).feed.rows == 8


def test_a_disk_that_fills_up_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if trouble:
            raise OSError(28, "No space left on device")
        return real(handle)

    trouble = []
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StillhouseError, match="No space left on device"):
        trainer(tmp_path / "run", on_step=lambda _, step: step == 4 and trouble.append(1)).fit()
    trouble.clear()
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("*")) == [
        "step-00000002",
        "step-00000004",
    ]
    whole, again = trainer(), trainer(tmp_path / "run")
    whole.fit()
    again.fit(resume=True)
    assert same(weights(whole), weights(again))


def test_what_is_done_after_an_iteration_is_not_lost_where_it_is_cut_off(tmp_path):
    """Nor is it where the iteration has a checkpoint: that would be gone on from."""
    done = []

    def killed(run, step):
        if step == 3:
            raise KeyboardInterrupt
        done.append(step)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", on_step=killed).fit()
    trainer(tmp_path / "run", on_step=lambda run, step: done.append(step)).fit(resume=True)
    assert set(done) == set(range(8))


def test_the_student_that_is_returned_is_the_average():
    plain, averaged = trainer(ema=0.0), trainer(ema=0.9)
    last, mean = plain.fit().denoiser.state_dict(), averaged.fit().denoiser.state_dict()
    assert same(last, plain.method.student.state_dict()) and same(last, averaged.method.student.state_dict())
    assert not same(last, mean)


def overflowing(run, when):
    """``run`` with an optimiser that makes an infinite weight of finite gradients in its step ``when``."""
    player, taken = run.players["student"], itertools.count()
    step = player.optimiser.step

    def overflow():
        step()
        if next(taken) == when:
            with torch.no_grad():
                player.parameters[0].view(-1)[0] = math.inf

    player.optimiser.step = overflow
    return run


@pytest.mark.parametrize("when", [3, 7])
def test_what_has_diverged_is_never_kept_as_good(tmp_path, when):
    """Finiteness is looked at again after the optimiser's step, before anything is written."""
    run = overflowing(trainer(tmp_path / "run", save_every=1), when)
    with pytest.raises(StillhouseError) as caught:
        run.fit()
    message, kept = str(caught.value), sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"After step {when + 1} 'student/" in message and "nothing of it is kept" in message
    assert kept == [f"step-{when - 1:08d}", f"step-{when:08d}"] and kept[-1] in message
    assert not (tmp_path / "run" / "model").exists()  # in the last step, too
    # in memory as well
    with pytest.raises(StillhouseError, match="no checkpoint yet"):
        run = trainer()
        with torch.no_grad():
            run.averages["average"].module.net.input.bias[0] = float("nan")
        run.fit()


def test_a_run_that_skips_every_step_has_failed(tmp_path):
    method = Fragile(when=0, lasting=True)
    with pytest.raises(StillhouseError, match="Every step of player 'student' was skipped"):
        trainer(tmp_path / "run", method=method, nonfinite="skip").fit()
    assert not (tmp_path / "run" / "model").exists()
    with pytest.raises(StillhouseError, match="The last 100 steps of player 'student' were skipped"):
        trainer(method=method, nonfinite="skip", steps=500).fit()


def test_a_mask_may_be_infinite(tmp_path):
    run = trainer(tmp_path / "run")
    assert run.guard.exempt == set()
    masked = trainer(tmp_path / "other").guard
    masked.exempt = {"student/mask"}
    masked.require_finite({"student/mask": torch.tensor(-float("inf")), "student/w": torch.ones(2)}, 1)
    with pytest.raises(StillhouseError, match="'student/w' is not finite"):
        masked.require_finite({"student/w": torch.tensor([1.0, float("nan")])}, 1)
