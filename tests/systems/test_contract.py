"""The contract that every method keeps: it builds, learns, saves, goes on after any stop, samples at its
promised cost, repeats itself, refuses bad options, and moves nothing but the player whose turn it is."""

import dataclasses
import functools
import json
import math
import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from stillhouse.adapters import Adapted
from stillhouse.api.runs import data_of
from stillhouse.core.bridge import Brownian, ResShift
from stillhouse.core.denoiser import count_calls
from stillhouse.core.discrete import Masked
from stillhouse.core.errors import StillhouseError
from stillhouse.core.process import VE, Flow, ScaledLinearVP
from stillhouse.model import load
from stillhouse.systems.registry import class_of, find, list_systems
from stillhouse.train.loop import Trainer
from stillhouse.train.method import Method
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)
STEPS = 8
SLUGS = [system.slug for system in list_systems() if issubclass(class_of(system.slug), Method)]
# a quick setting of each method that takes every branch of it: options, process and kind of the teacher
SETTINGS = {
    "progressive": ({"teacher_steps": 4}, Flow(), "velocity"),
    "cm": ({}, VE(), "edm"),
    "ctm": ({"levels": 8, "critic_from": 0.5}, VE(), "edm"),
    "tbcm": (
        {"levels": 4, "warmup": 2, "low_guidance": 1.0, "high_guidance": 3.0, "adaptive": True},
        Flow(),
        "velocity",
    ),
    "dmd": ({"pairs": 32, "pair_steps": 4, "first_time": 0.7}, Flow(), "x0"),
    "dmd2": ({"steps": 2, "fake_per_student": 2}, Flow(), "velocity"),
    "guided_distillation": ({"teacher_steps": 8, "steps": 4, "stochastic": True}, Flow(), "velocity"),
    "lcm": ({"low_guidance": 1.0, "high_guidance": 4.0, "levels": 10, "steps": 2}, ScaledLinearVP(), "v"),
    "lora_distill": ({"guidance": 3.0, "steps": 4}, Flow(), "velocity"),
    "icd": ({"segments": 2, "levels": 6, "high_guidance": 4.0}, ScaledLinearVP(), "v"),
    "hyper_sd": (
        {
            "segments": 2,
            "levels": 4,
            "critic": 0.5,
            "unified": True,
            "reward": "stillhouse.checks.trajectory.hyper_sd:across",
            "reward_share": 0.25,
            "score_share": 0.25,
            "margin": 9.0,
            "pairs": 32,
        },
        Flow(),
        "velocity",
    ),
    "flash_diffusion": (
        {"grid": 8, "steps": 4, "low_guidance": 1.0, "high_guidance": 3.0},
        Flow(),
        "velocity",
    ),
    "sdxl_lightning": ({"ladder": (8, 4, 2, 1), "x0_student": True}, Flow(), "velocity"),
    "swiftbrush": ({"first_time": 0.7, "rank": 2, "guidance": 2.0}, Flow(), "velocity"),
    "snoopi": ({"first_time": 0.7, "rank": 2}, Flow(), "velocity"),
    "slimflow": ({"pairs": 32, "pair_steps": 4}, Flow(), "velocity"),
    "ibmd": ({"steps": 2, "fake_per_student": 2}, Brownian(0.6), "x0"),
    "tad_sr": ({"steps": 4, "levels": 2, "maps": 4}, ResShift(steps=4), "scaled"),
    "sdtt": ({"teacher_steps": 8, "rounds": 3, "teacher_ema": 0.5}, Masked(6), "logits"),
    "causvid": (
        {"paths": 32, "teacher_steps": 4, "ode_share": 0.5, "fake_per_student": 2, "warmup": 1},
        Flow(),
        "velocity",
    ),
    "livetalk": (
        {
            "levels": (1.0, 0.6),
            "paths": 32,
            "teacher_steps": 4,
            "ode_share": 0.5,
            "warmup": 1,
            "fake_per_student": 1,
            "longest": 12,
        },
        Flow(),
        "velocity",
    ),
    "onedp": ({"fake_per_student": 2}, Flow(), "velocity"),
    "cfd": ({"scene": "points", "size": 1, "scenes": 4, "gamma": 0.1, "guidance": 1.5}, Flow(), "velocity"),
}
# options under which a method's losses are plain means over the batch, where the setting above has a term
# that is not
MEANS = {"ctm": {"levels": 8, "denoising": False}}


@dataclasses.dataclass
class Place:
    """Where a method's contract is tried: a world, and the options of the network that is its teacher
    there."""

    world: dict = dataclasses.field(default_factory=lambda: {"name": "mixture"})
    network: dict = dataclasses.field(default_factory=lambda: {"width": 16, "depth": 1})


PLACES = {
    "sdtt": Place({"name": "text", "kind": "chain"}),
    "causvid": Place({"name": "clips", "kind": "ring", "frames": 6}, {"dim": 16, "depth": 1, "heads": 2}),
    "livetalk": Place({"name": "clips", "kind": "ring", "frames": 6}, {"dim": 16, "depth": 1, "heads": 2}),
    "ibmd": Place(world={"name": "mixture", "bridge": "told"}),
    "tad_sr": Place(world={"name": "mixture", "bridge": "told"}),
    "onedp": Place({"name": "control", "task": "bandit"}),
    "cfd": Place({"name": "objects", "kind": "cube"}),
}
STILL = ("cfd",)  # students that draw nothing: their samples follow from what they are told alone


def run(slug, folder=None, *, resume=False, on_step=None, options=None, **recipe):
    """A trainer and, by calling ``fit``, its student: of a small network, of 16 units on the labelled ring
    unless PLACES says otherwise."""
    usual, process, kind = SETTINGS.get(slug, ({}, Flow(), "velocity"))
    method, place = find(slug)(**(usual if options is None else options)), PLACES.get(slug, Place())
    world = get_world(**place.world)
    network, generator = world.network(process, kind=kind, **place.network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(
                0.05 * torch.randn(p.shape, generator=generator)
            )  # a fresh network's layers of zeros make it deaf to its condition
    teacher = load(network, shape=world.shape, classes=world.classes)
    teacher.cond_kind, teacher.world = world.cond_kind, world.name
    data = data_of(None, world, teacher, method, 0)
    settings = Recipe(**{"steps": STEPS, "batch": 8, "save_every": 3, "log_every": 1, **recipe})
    trainer = Trainer(method, teacher, data, settings, out=folder, quiet=True, on_step=on_step)
    return trainer, lambda: trainer.fit(resume)


def drawn(trainer, student, **how):
    """Six samples, under conditions of the run's data where the student must be told something."""
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
    """The step after which a run is stopped: any, but the same every time."""
    return random.Random(f"{slug} {why}").randrange(STEPS - 1)


@pytest.fixture(scope="module")
def whole():
    """Runs that were never stopped, each made once."""
    made = {}

    def of(slug):
        if slug not in made:
            trainer, fit = run(slug)
            made[slug] = trainer, fit()
        return made[slug]

    return of


def kill_at(at, trainer, step):
    """End this process, at once and for good, after step ``at``."""
    if step == at:
        os.kill(os.getpid(), signal.SIGKILL)


def die(folder):
    """Run every method in a child of its own that kills itself after some step; nothing of it gets to clean
    up."""
    for slug in SLUGS:
        child = os.fork()
        if child == 0:
            at = stop_of(slug, "kill")
            _, fit = run(slug, f"{folder}/{slug}", on_step=functools.partial(kill_at, at))
            fit()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        with open(f"{folder}/{slug}.signal", "w") as file:
            file.write(str(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of runs that SIGKILL ended."""
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run(
        [sys.executable, __file__, str(folder)], check=True
    )  # a process of its own: forking this one would copy its threads
    return folder


@pytest.mark.parametrize("slug", SLUGS)
def test_it_learns_something_finite(slug, whole):
    trainer, _ = whole(slug)
    assert [r["step"] for r in trainer.journal.rows if "seconds" in r] == list(range(STEPS))
    assert all(math.isfinite(v) for row in losses(trainer) for v in row.values())
    fresh, _ = run(slug)
    for name, module in fresh.method.players.items():
        assert not same(weights(module), weights(trainer.method.players[name])), f"player {name} never moved"


@pytest.mark.parametrize("slug", SLUGS)
def test_it_repeats_itself_and_draws_nothing_from_the_global_state(slug, whole):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trainer, fit = run(slug)
    fit()
    assert torch.equal(before, torch.get_rng_state())
    assert same(everything(trainer), everything(whole(slug)[0])) and losses(trainer) == losses(whole(slug)[0])
    other, fit = run(slug, seed=1)
    fit()
    assert losses(other) != losses(trainer)


@pytest.mark.parametrize("slug", SLUGS)
def test_it_goes_on_bit_for_bit_after_a_stop(slug, whole, tmp_path):
    at, folder = stop_of(slug, "stop"), tmp_path / "run"

    def stop(trainer, step):
        trainer.stopping = step + 1 == at  # as a signal would, in the midst of iteration `at`

    if at:
        with pytest.raises(StillhouseError, match=f"Stopped after step {at + 1} of {STEPS}"):
            run(slug, folder, on_step=stop)[1]()
        assert (folder / "checkpoints" / f"step-{at + 1:08d}").is_dir()
    trainer, fit = run(slug, folder, resume=True)
    student = fit()
    assert same(everything(trainer), everything(whole(slug)[0])) and losses(trainer) == losses(whole(slug)[0])
    saved = load(folder / "model")
    near = (
        1e-5 if isinstance(student.denoiser, Adapted) else 0.0
    )  # an adapter is saved folded into the weights
    torch.testing.assert_close(
        drawn(trainer, saved, seed=3), drawn(trainer, student, seed=3), atol=near, rtol=0
    )
    assert saved.samplings == student.samplings


@pytest.mark.parametrize("slug", SLUGS)
def test_it_goes_on_bit_for_bit_after_a_kill(slug, whole, killed):
    assert (killed / f"{slug}.signal").read_text() == str(int(signal.SIGKILL))
    assert not (killed / slug / "model").exists()
    trainer, fit = run(slug, killed / slug, resume=True)
    fit()
    assert same(everything(trainer), everything(whole(slug)[0]))


@pytest.mark.parametrize("slug", SLUGS)
def test_a_torn_checkpoint_is_passed_over(slug, whole, tmp_path, caplog):
    trainer, fit = run(slug, tmp_path / "run", save_every=4)
    fit()
    newest = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}"
    with open(newest / "weights.safetensors", "r+b") as file:
        file.truncate(100)
    again, fit = run(slug, tmp_path / "run", resume=True, save_every=4)
    fit()
    assert "torn" in caplog.text and str(newest) in caplog.text
    assert same(everything(again), everything(whole(slug)[0]))


@pytest.mark.parametrize("slug", SLUGS)
def test_it_samples_at_the_promised_cost(slug, whole):
    trainer, student = whole(slug)
    assert next(iter(student.samplings)) == min(student.samplings) or "steps" in SETTINGS.get(slug, ({},))[0]
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
        assert slug in STILL or not torch.equal(x, drawn(trainer, student, steps=steps, seed=2))
    if student.free_steps:
        assert drawn(trainer, student, steps=7).shape == (6, *student.shape)
        return
    with pytest.raises(StillhouseError, match="step"):
        drawn(trainer, student, steps=77)


@pytest.mark.parametrize("slug", SLUGS)
def test_only_the_player_whose_turn_it_is_has_gradients(slug):
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


@pytest.mark.parametrize("slug", SLUGS)
def test_two_micro_batches_are_one_batch(slug):
    """The same rows and the same random numbers, taken in two halves, give the same losses."""
    made = []
    for grad_accum in (1, 2):
        trainer, fit = run(slug, options=MEANS.get(slug), steps=4, grad_accum=grad_accum)
        fit()
        made.append(losses(trainer))
    assert len(made[0]) == 4 and [row.keys() for row in made[0]] == [row.keys() for row in made[1]]
    for one, two in zip(*made, strict=True):
        for name in one:
            assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name


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


@pytest.mark.parametrize("slug", SLUGS)
def test_it_refuses_bad_options_in_one_sentence(slug):
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


@pytest.mark.parametrize("slug", SLUGS)
def test_its_description_makes_it_again(slug):
    usual = SETTINGS.get(slug, ({},))[0]
    method = find(slug)(**usual)
    described = json.loads(json.dumps(method.describe()))
    assert described["method"] == slug and find(slug)(**described["options"]) == method


if __name__ == "__main__":
    die(sys.argv[1])
