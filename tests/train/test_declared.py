"""What a method declares and the loop keeps: state of its own, a bank made anew, further parts and views of
the data, no student at all, a plain network in a model's place."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from stillhouse.api.runs import distill
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.model import Network
from stillhouse.models import build_model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.train.batch import Batch
from stillhouse.train.data import InfiniteData, NoData, Several, TensorData
from stillhouse.train.loop import Interrupted, Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)
WORLD = get_world("mixture")
STEPS = 10


@dataclass
class Toy(Method):
    """The student's velocity is drawn to half the teacher's."""

    def student_loss(self, batch: Batch):
        x, t = batch.noise(), batch.times(0.0, 1.0)
        return (self.student(x, t).velocity - 0.5 * self.teacher(x, t).velocity).square().mean()

    def samplings(self):
        return {1: Sampling([1.0, 0.0], "ddim")}


@dataclass
class Constrained(Toy):
    """A multiplier climbs while the loss is above its target; every loss of the past is kept."""

    def build(self):
        self.multiplier = self.state("multiplier", torch.zeros(()))
        self.past = self.state("past", torch.zeros(0))

    def student_loss(self, batch):
        loss = super().student_loss(batch)
        self.multiplier.value += 0.5 * (loss.detach() - 0.01)
        self.past.value = torch.cat([self.past.value, loss.detach()[None]])
        return loss * (1 + self.multiplier.value)


@dataclass
class Banked(Toy):
    """Rows of the student's own samples, made anew every few steps."""

    every = 3

    @property
    def bank_size(self):
        return 2000  # two shards

    @property
    def bank_refresh(self):
        return self.every

    def bank_rows(self, draws, cond):
        noise = draws.normal(*self.shape)
        return {"x": self.student(noise, torch.ones(draws.rows)).x0}

    def student_loss(self, batch):
        x = batch.stored()["x"]
        batch.log("bank", x.square().mean())
        return super().student_loss(batch) + self.student(x, batch.times(0.0, 1.0)).x0.square().mean()


@dataclass
class Once(Banked):
    every = 0


def trainer(method, out=None, *, data=None, stop=None, **recipe):
    def on_step(run, step):
        run.stopping = run.stopping or step == stop

    teacher = load(WORLD.network(Flow(), seed=1, width=8, depth=1, classes=0), shape=WORLD.shape)
    settings = Recipe(**{"steps": STEPS, "batch": 8, "save_every": 0, "log_every": 1, **recipe})
    # what on_step sets at the end of one iteration stops the run at the end of the next
    return Trainer(
        method, teacher, data or NoData(WORLD.shape), settings, out=out, quiet=True, on_step=on_step
    )


def resumed(method, out, stop, **given):
    """A run that was stopped after iteration ``stop``, and gone on with."""
    with pytest.raises(Interrupted, match=f"after step {stop + 1} of {STEPS}"):
        trainer(method(), out, stop=stop - 1, **given).fit()
    run = trainer(method(), out, **given)
    run.fit(resume=True)
    return run


def same(a, b):
    mine, its = ({n: m.state_dict() for n, m in run.modules.items()} for run in (a, b))
    assert mine.keys() == its.keys()
    return all(torch.equal(v, its[n][k]) for n, own in mine.items() for k, v in own.items())


def test_state_of_a_methods_own_survives_a_restart_bit_for_bit(tmp_path):
    whole = trainer(Constrained())
    whole.fit()
    assert {"state.multiplier", "state.past"} <= whole.modules.keys()
    assert float(whole.method.multiplier.value) > 0 and len(whole.method.past.value) == STEPS
    again = resumed(Constrained, tmp_path / "run", 5)
    assert same(whole, again) and torch.equal(whole.method.past.value, again.method.past.value)


@pytest.mark.parametrize("stop", [1, 2, 3, 7])
def test_a_bank_is_made_anew_and_found_again(tmp_path, stop):
    whole = trainer(Banked())
    whole.fit()
    again = resumed(Banked, tmp_path / "run", stop)
    assert same(whole, again)
    once = trainer(Once())
    once.fit()
    assert not same(whole, once)


def test_banks_that_no_checkpoint_reads_are_deleted(tmp_path):
    run = trainer(Banked(), tmp_path / "run", save_every=4, keep_checkpoints=1)
    run.fit()
    assert [p.name for p in sorted((tmp_path / "run" / "bank").iterdir())] == ["00003"]
    # nothing but the newest checkpoint, of step 8, and the banks of its time: the run goes on from there
    other = trainer(Banked(), tmp_path / "two", save_every=4, keep_checkpoints=2, stop=8)
    with pytest.raises(StillhouseError, match="no room"):
        other.on_step = lambda run, step: step == 8 and (_ for _ in ()).throw(StillhouseError("no room"))
        other.fit()
    kept = sorted(p.name for p in (tmp_path / "two" / "bank").iterdir())
    assert kept == ["00001", "00002"]  # of the checkpoints after steps 4 and 8
    again = trainer(Banked(), tmp_path / "two", save_every=4, keep_checkpoints=2)
    again.fit(resume=True)
    assert same(run, again)


@dataclass
class Reader(Toy):
    """A critic of one part of the data, and a student of the data's rows and two views of them."""

    reads_parts = ("critic",)
    reads_views = ("small", "noisy")

    def build(self):
        self.critic = self.player("critic", nn.Linear(2, 1))
        self.read = []

    def critic_loss(self, batch):
        x, _ = batch.of("critic")
        self.read.append(("critic", batch.step, x.clone()))
        return self.critic(x).square().mean()

    def student_loss(self, batch):
        assert batch.view("noisy") is batch.view("noisy")
        for name in ("small", "noisy"):
            self.read.append((name, batch.step, batch.view(name).clone()))
        self.read.append(("x", batch.step, batch.data.clone()))
        return super().student_loss(batch)


def several():
    main = torch.arange(40.0).reshape(20, 2)
    return Several(
        TensorData(main, seed=3),
        {"critic": TensorData(-1 - main)},
        {"small": main[:, :1] / 2, "noisy": lambda x, draws: x + draws.normal(*x.shape[1:])},
    )


def read_of(run):
    """What the method read, by name and step, micro-batches joined."""
    made = {}
    for name, step, value in run.method.read:
        made.setdefault((name, step), []).append(value)
    return {key: torch.cat(values) for key, values in made.items()}


def test_players_read_parts_of_the_data_and_views_of_its_rows():
    run = trainer(Reader(), data=several())
    run.fit()
    found = read_of(run)
    for step in range(STEPS):
        x = found["x", step]
        assert torch.equal(found["small", step], x[:, :1] / 2)
        noise = found["noisy", step] - x
        assert 0.3 < float(noise.std()) < 2 and (found["critic", step] < 0).all()
    epoch = torch.cat([found["critic", step] for step in range(5)])  # 5 batches of 8: two epochs of 20
    assert len(torch.unique(epoch[:20, 0])) == 20
    split = trainer(Reader(), data=several(), grad_accum=4)
    split.fit()
    parts = read_of(split)
    assert parts.keys() == found.keys() and all(torch.equal(parts[k], found[k]) for k in found)


def test_data_without_the_parts_and_views_that_a_method_reads_are_refused(tmp_path):
    given = several()
    for data, what in (
        (given.main, "the parts critic of its data; missing: critic"),
        (
            Several(given.main, given.parts, {"small": given.views["small"]}),
            "views small, noisy .*missing: noisy",
        ),
    ):
        with pytest.raises(StillhouseError, match=what):
            trainer(Reader(), tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()
    with pytest.raises(StillhouseError, match="'small' has 7 entries"):
        Several(given.main, views={"small": torch.zeros(7, 1)})
    with pytest.raises(StillhouseError, match="for each row of data in memory"):
        Several(InfiniteData(WORLD), views={"small": torch.zeros(7, 1)})
    with pytest.raises(StillhouseError, match="no samples to make the view 'small' of"):
        Several(NoData((2,)), views={"small": lambda x, draws: x}).view("small", None, 0, Draws(2, "view"))


@dataclass
class Times(Method):
    """Learns where the teacher's second step begins, by the gap to four steps. There is no student."""

    def make_student(self, teacher):
        return None

    def build(self):
        self.middle = self.player("middle", nn.ParameterDict({"time": torch.tensor(0.9)}))
        self.companions["middle"] = build_model(
            {"name": "mlp", "dim": 2, "width": 4, "depth": 1, "classes": 0}
        )
        self.player("middle", self.companions["middle"])

    def walk(self, x, times):
        for t, s in zip(times, times[1:], strict=False):
            t = t.expand(len(x))
            x = x + (s - t)[:, None] * self.teacher(x, t).velocity
        return x

    def middle_loss(self, batch):
        x, one, zero = batch.noise(), torch.ones(()), torch.zeros(())
        exact = self.walk(x, torch.linspace(1, 0, 5)).detach()
        extra = sum(p.square().sum() for p in self.companions["middle"].parameters())
        return (self.walk(x, [one, self.middle["time"], zero]) - exact).square().mean() + 1e-3 * extra

    def samplings(self):
        return {2: Sampling([1.0, float(self.middle["time"]), 0.0], "ddim")}


def test_a_method_without_a_student_gives_the_teacher_with_what_was_learnt(tmp_path):
    run = trainer(Times(), tmp_path / "run", lr={"middle": 0.02})
    before = {k: v.clone() for k, v in run.teacher.denoiser.state_dict().items()}
    model = run.fit()
    assert run.method.student is run.method.teacher and set(run.players) == {"middle"}
    after = model.denoiser.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    opened = load(tmp_path / "run" / "model")
    assert opened.samplings[2].times[1] == float(run.method.middle["time"]) != 0.9
    assert set(opened.companions) == {"middle"}
    assert torch.equal(opened.sample(4, seed=1), model.sample(4, seed=1))
    averaged = trainer(Times(), ema=0.9)
    averaged.fit()
    assert set(averaged.averages) == {"average.middle"}
    whole, again = trainer(Times()), resumed(Times, tmp_path / "again", 4)
    whole.fit()
    assert same(whole, again)


@dataclass
class Regressor(Method):
    """A plain network that reads the time of a noisy sample."""

    worlds = ("mixture",)
    needs = ("teacher", "data")

    def make_student(self, teacher):
        return None

    def build(self):
        net = build_model({"name": "mlp", "dim": 2, "width": 16, "depth": 1, "classes": 0})
        self.net = self.player("net", net)

    def net_loss(self, batch):
        t = batch.times(0.0, 1.0)
        x = self.process.noise(batch.data, t, batch.noise())
        return (self.net(x, torch.zeros_like(t))[:, 0] - t).square().mean()

    def product(self, teacher):
        return Network(self.final(self.net), {"x": [2], "t": []}, {"time": [2]}, self.describe())


def test_what_comes_out_may_be_a_plain_network(tmp_path):
    given = {"world": "mixture", "quiet": True, "iterations": 6, "batch": 8}
    net = distill(None, Regressor, out=tmp_path / "run", **given)
    assert isinstance(net, Network) and net.info["teacher"] and net.inputs["x"] == [2]
    again = load(tmp_path / "run" / "model")
    x = (torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(5))
    assert torch.equal(again(*x), net(*x)) and again.info["options"] == {}
    finished = distill(None, Regressor, out=tmp_path / "run", resume=True, **given)
    assert torch.equal(finished(*x), net(*x))
    fresh = replace(net, module=build_model(net.module.config))
    assert not torch.equal(fresh(*x), net(*x))
