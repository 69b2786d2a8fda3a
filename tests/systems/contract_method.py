"""The contract that every method keeps: it builds, learns, saves, goes on after any stop, samples at its
promised cost, repeats itself, refuses bad options, needs what it declares, and moves nothing but the player
whose turn it is.

Each ``check_…`` takes a slug and a :class:`Runs`, which makes what checks share once, and only when a check
asks for it.
"""

import dataclasses
import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillhouse.adapters import Adapted
from stillhouse.api.runs import data_of
from stillhouse.checks.runner import load_check
from stillhouse.core.denoiser import count_calls
from stillhouse.core.errors import StillhouseError
from stillhouse.opening import load
from stillhouse.systems.registry import find, get_system
from stillhouse.train import loop
from stillhouse.train.data import NoData, Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.needs import read_need
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world
from tests.systems import oracle

torch.set_num_threads(1)
STEPS, EVERY = 8, 3


def contract_of(slug):
    """The setting that stands beside the system's check."""
    return load_check(slug).CONTRACT


def small_teacher(contract):
    """The world of a contract and a small network of it, with every weight moved: a fresh network's layers of
    zeros do not react to its condition."""
    world = get_world(**contract.world)
    network = world.network(contract.process, kind=contract.kind, **contract.network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    teacher = load(network, shape=world.shape, classes=world.classes)
    teacher.cond_kind, teacher.world = world.cond_kind, world.name
    return world, teacher


def run(slug, folder=None, *, resume=False, on_step=None, options=None, data=None, **recipe):
    """A trainer and, by calling ``fit``, its student."""
    contract = contract_of(slug)
    method = find(slug)(**(contract.options if options is None else options))
    world, teacher = small_teacher(contract)
    data = data_of(None, world, teacher, method, 0) if data is None else data
    settings = Recipe(**{"steps": STEPS, "batch": 8, "save_every": EVERY, "log_every": 1, **recipe})
    trainer = Trainer(method, teacher, data, settings, out=folder, quiet=True, on_step=on_step)
    return trainer, lambda: trainer.fit(resume)


def drawn(trainer, student, **how):
    """Six samples, under conditions of the run's data where the student takes some."""
    return student.sample(6, trainer.data.examples(6) if student.cond_kind else None, **how)


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def own_weights(module):
    """Without those of adapters that players have put on it."""
    return {k: v for k, v in weights(module).items() if "lora_" not in k}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def everything(trainer):
    return {f"{name}/{k}": v for name, module in trainer.modules.items() for k, v in weights(module).items()}


def losses(trainer):
    return [
        {k: v for k, v in row.items() if k.endswith("/loss")}
        for row in trainer.journal.rows
        if "seconds" in row
    ]


def stop_of(slug, why):
    """The iteration in which a run is ended: any between its first checkpoint and its last iteration, but the
    same every time."""
    return random.Random(f"{slug} {why}").randrange(EVERY, STEPS - 1)


class Runs:
    """Runs that several checks look at, each made once: whole ones, and the process that forks those to be
    killed."""

    def __init__(self, folder):
        self.folder, self._whole, self._forks = folder, {}, None

    def whole(self, slug):
        """Trainer and student of a run that was never stopped."""
        if slug not in self._whole:
            trainer, fit = run(slug)
            self._whole[slug] = trainer, fit()
        return self._whole[slug]

    def killed(self, slug):
        """The folder of a run that SIGKILL ended after some step; nothing of it got to clean up."""
        if (
            self._forks is None
        ):  # a process of its own, with one thread: forking this one would copy its threads
            self._forks = subprocess.Popen(
                [sys.executable, "-m", "tests.systems.contract_method"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        folder = self.folder / slug
        self._forks.stdin.write(f"{slug} {folder}\n")
        self._forks.stdin.flush()
        assert self._forks.stdout.readline().strip() == str(int(signal.SIGKILL))
        return folder

    def close(self):
        if self._forks is not None:
            self._forks.stdin.close()
            self._forks.wait()


def kill_after(step):
    """A hook of the loop that ends this process, at once and for good, after a step."""

    def hook(trainer, now):
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def fork_on_demand():
    """Read lines of slug and folder; run each in a child that kills itself; answer with the signal that ended
    it."""
    for line in sys.stdin:
        slug, folder = line.split(maxsplit=1)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # the child's own words are no answer
            run(slug, folder.strip(), on_step=kill_after(stop_of(slug, "kill")))[1]()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, flush=True)


def check_it_learns_something_finite(slug, runs, tmp_path):
    trainer, _ = runs.whole(slug)
    assert [r["step"] for r in trainer.journal.rows if "seconds" in r] == list(range(STEPS))
    assert all(math.isfinite(v) for row in losses(trainer) for v in row.values())
    fresh, _ = run(slug)
    for name, module in fresh.method.players.items():
        assert not same(weights(module), weights(trainer.method.players[name])), f"player {name} never moved"


def check_it_repeats_itself_and_draws_nothing_from_the_global_state(slug, runs, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trainer, fit = run(slug)
    fit()
    assert torch.equal(before, torch.get_rng_state())
    assert same(everything(trainer), everything(runs.whole(slug)[0])) and losses(trainer) == losses(
        runs.whole(slug)[0]
    )
    other, fit = run(slug, seed=1)
    fit()
    assert losses(other) != losses(trainer)


def check_it_goes_on_bit_for_bit_after_a_stop(slug, runs, tmp_path):
    at, folder = stop_of(slug, "stop"), tmp_path / "run"

    def stop(trainer, step):
        trainer.stopping = step + 1 == at  # as a signal would, in the midst of iteration `at`

    with pytest.raises(StillhouseError, match=f"Stopped after step {at + 1} of {STEPS}"):
        run(slug, folder, on_step=stop)[1]()
    assert (folder / "checkpoints" / f"step-{at + 1:08d}").is_dir()
    trainer, fit = run(slug, folder, resume=True)
    student = fit()
    assert same(everything(trainer), everything(runs.whole(slug)[0])) and losses(trainer) == losses(
        runs.whole(slug)[0]
    )
    saved = load(folder / "model")
    near = (
        1e-5 if isinstance(student.denoiser, Adapted) else 0.0
    )  # an adapter is saved folded into the weights
    torch.testing.assert_close(
        drawn(trainer, saved, seed=3), drawn(trainer, student, seed=3), atol=near, rtol=0
    )
    assert saved.samplings == student.samplings


def check_it_goes_on_bit_for_bit_after_a_kill(slug, runs, tmp_path):
    folder = runs.killed(slug)
    assert not (folder / "model").exists()
    assert (folder / "checkpoints" / f"step-{EVERY:08d}").is_dir()
    trainer, fit = run(slug, folder, resume=True)
    fit()
    assert same(everything(trainer), everything(runs.whole(slug)[0]))


def check_a_torn_checkpoint_is_passed_over(slug, runs, tmp_path):
    trainer, fit = run(slug, tmp_path / "run", save_every=4)
    fit()
    newest = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}"
    with open(newest / "weights.safetensors", "r+b") as file:
        file.truncate(100)
    again, fit = run(slug, tmp_path / "run", resume=True, save_every=4)
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("stillhouse").addHandler(handler)
    try:
        fit()
    finally:
        logging.getLogger("stillhouse").removeHandler(handler)
    assert any("torn" in line and str(newest) in line for line in lines)
    assert same(everything(again), everything(runs.whole(slug)[0]))


def check_it_samples_at_the_promised_cost(slug, runs, tmp_path):
    trainer, student = runs.whole(slug)
    assert next(iter(student.samplings)) == min(student.samplings) or "steps" in contract_of(slug).options
    for steps, sampling in student.samplings.items():
        with count_calls(student.denoiser) as calls:
            x = drawn(trainer, student, steps=steps, seed=1)
        chunks = (
            -(-student.shape[0] // sampling.stream.chunk) if sampling.stream else 1
        )  # each of a stream's is a walk and a clean pass
        assert calls() == chunks * sampling.nfe(student.denoiser) and sampling.nfe(
            student.denoiser
        ) == steps + bool(sampling.stream)
        assert x.shape == (6, *student.shape) and torch.isfinite(x).all()
        assert torch.equal(x, drawn(trainer, student, steps=steps, seed=1))
        assert contract_of(slug).still or not torch.equal(x, drawn(trainer, student, steps=steps, seed=2))
    if student.free_steps:
        assert drawn(trainer, student, steps=7).shape == (6, *student.shape)
        return
    with pytest.raises(StillhouseError, match="step"):
        drawn(trainer, student, steps=77)


def check_only_the_player_whose_turn_it_is_has_gradients(slug, runs, tmp_path):
    trainer, fit = run(slug, steps=6)
    before = own_weights(trainer.teacher.denoiser)
    turns = []

    def spy(parameters):
        own = set(map(id, parameters))
        (name,) = (n for n, player in trainer.players.items() if set(map(id, player.parameters)) == own)
        turns.append(name)
        for where, module in [*trainer.modules.items(), ("teacher", trainer.teacher.denoiser)]:
            strangers = [k for k, p in module.named_parameters() if id(p) not in own and p.grad is not None]
            assert not strangers, f"in the turn of '{name}', {where} has gradients at {strangers}"
        assert any(p.grad is not None and p.grad.any() for p in trainer.players[name].parameters)

    trainer.engine.average_gradients = spy
    fit()
    assert set(turns) == set(trainer.players)
    assert turns == [name for step in range(6) for name in trainer.method.turns(step)]
    assert same(before, own_weights(trainer.teacher.denoiser))
    assert not any(p.requires_grad for p in trainer.teacher.denoiser.parameters())


def check_two_micro_batches_are_one_batch(slug, runs, tmp_path):
    """The same rows and the same random numbers, taken in two halves, give the same losses."""
    made = []
    for grad_accum in (1, 2):
        trainer, fit = run(slug, options=contract_of(slug).means, steps=4, grad_accum=grad_accum)
        fit()
        made.append(losses(trainer))
    assert len(made[0]) == 4 and [row.keys() for row in made[0]] == [row.keys() for row in made[1]]
    for one, two in zip(*made, strict=True):
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=5e-8), name


def outside(field):
    """Values that an option must refuse."""
    meta, default = field.metadata, field.default
    if meta["choices"]:
        yield "no such choice"
    if isinstance(default, bool) or not isinstance(default, int | float):
        return
    step = 1 if isinstance(default, int) else 1e-3
    yield from ([] if meta["low"] is None else [meta["low"] - step, -math.inf])
    yield from ([] if meta["high"] is None else [meta["high"] + step])
    yield from (math.nan, math.inf, "many", None)
    if isinstance(default, int):
        yield default + 0.5


def check_it_refuses_bad_options_in_one_sentence(slug, runs, tmp_path):
    kind = find(slug)
    fields = [f for f in dataclasses.fields(kind) if f.metadata]
    assert fields and all(f.metadata["help"] for f in fields)
    for field in fields:
        number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        assert not number or field.metadata["low"] is not None, f"'{field.name}' has no lower end"
        for value in outside(field):
            with pytest.raises(StillhouseError) as caught:
                kind(**{field.name: value})
            message = str(caught.value)
            assert field.name in message and message.endswith(".") and "\n" not in message


def check_its_description_makes_it_again(slug, runs, tmp_path):
    method = find(slug)(**contract_of(slug).options)
    described = json.loads(json.dumps(method.describe()))
    assert described["method"] == slug and find(slug)(**described["options"]) == method


def settings_of(slug):
    """The contract's options, and with each conditional need on and off where it is not so already."""
    usual, kind = dict(contract_of(slug).options), find(slug)
    yield usual
    for need in map(read_need, kind.needs):
        if need.option:
            (field,) = (f for f in dataclasses.fields(kind) if f.name == need.option)
            value = json.loads(need.value) if not isinstance(field.default, str) else need.value
            yield {**usual, need.option: value}
            if field.default != value:
                yield {k: v for k, v in usual.items() if k != need.option}


def without_samples(data):
    """The same conditions with no sample beside them."""
    cond = data.examples(64)
    return NoData(data.shape, data.classes) if data.classes or cond is None else Prompts(data.shape, cond)


def check_its_needs_are_true(slug, runs, tmp_path):
    """What the record names is what a run asks for: it comes to its end without samples, or without a call of
    the teacher, just where the record says that it can."""
    kind, row = find(slug), get_system(slug)
    assert (row.kind, row.needs, row.worlds) == (kind.kind, kind.needs, kind.worlds)
    for options in settings_of(slug):
        method = kind(**options)
        data = run(slug, options=options)[0].data
        if method.requires("data"):
            with pytest.raises(StillhouseError, match="real data"):
                run(slug, options=options, data=without_samples(data))
        with pytest.MonkeyPatch.context() as patch:  # without the guard, does a loss really look at samples?
            patch.setattr(loop, "fitting", lambda *given: None)
            trainer, fit = run(slug, options=options, data=without_samples(data))
        with count_calls(trainer.teacher.denoiser) as calls:
            if method.requires("data"):
                with pytest.raises(StillhouseError, match="real data"):
                    fit()
            else:
                fit()
                assert (calls() > 0) == method.requires("teacher")
        if method.requires("reward"):
            with pytest.raises(StillhouseError, match="reward"):
                kind(**{**options, "reward": ""})


def check_every_loss_has_an_oracle(slug, runs, tmp_path):
    """`tests/systems/FAMILY/oracle_SLUG.py` covers each loss in each stage, the stored rows, guidance, and
    another process than Flow; what it can't cover it names."""
    assert not oracle.lacking(slug)


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]

if __name__ == "__main__":
    fork_on_demand()
