"""A number of a run becomes NaN or infinite: nothing that is not finite is kept, and the run goes on from its
last good checkpoint to the same bits."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from stillhouse.core.conditions import Condition
from stillhouse.core.errors import StillhouseError
from stillhouse.io.weights import first_not_finite
from stillhouse.train import checkpoint
from tests.systems.contract_method import STEPS, everything, run, same

SLUGS = ("dmd2", "flash_diffusion", "slimflow", "tad_sr", "progressive")  # of five families
FEW = 2  # faults of each in the short form
RECIPE = {"save_every": 2, "keep_checkpoints": 9}


def spoilt(value: Condition, number: float) -> Condition:
    """A tensor of numbers with another first one; conditions of labels as they are."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        value = value.clone()
        value.view(-1)[0] = number
    return value


class Fault:
    """One number of one player in one step of a trainer is replaced.

    Arguments:
        trainer: whose run it is.
        where: ``loss``, ``gradient``, ``weight``, ``data`` or ``condition``.
        player: whose.
        step: the first from this one in which the player has a turn, or its last.
        number: that takes the place.
    """

    def __init__(self, trainer, where, player, step, number):
        self.trainer, self.where, self.player, self.number = trainer, where, player, number
        turns = [s for s in range(STEPS) if player in trainer.method.turns(s)]
        self.step = next((s for s in turns if s >= step), turns[-1])
        self.now = -1
        for owner, name in ((trainer, "iterate"), (trainer, "_turn"), (trainer.feed, "batch")):
            setattr(owner, name, getattr(self, name.strip("_"))(getattr(owner, name)))

    def iterate(self, then):
        def iterate(step):
            self.now = step
            if self.where == "weight" and step == self.step:
                with torch.no_grad():
                    self.trainer.players[self.player].parameters[0].view(-1)[0] = self.number
            then(step)

        return iterate

    def turn(self, then):
        def turn(player, batches, step):
            value = then(player, batches, step)
            if (player.name, step) == (self.player, self.step):
                if self.where == "loss":
                    return self.number
                if self.where == "gradient":
                    grads = [p.grad for p in player.parameters if p.grad is not None]
                    grads[0].view(-1)[0] = self.number
            return value

        return turn

    def batch(self, then):
        def batch(step, part, turns):
            made = then(step, part, turns)
            if step == self.step and self.where == "data":
                made.x = spoilt(made.x, self.number)
            if step == self.step and self.where == "condition":
                made.cond = spoilt(made.cond, self.number)
            return made

        return batch


@pytest.fixture(scope="module")
def wholes():
    """All weights of each method's run without a fault."""
    made = {}

    def whole(slug):
        if slug not in made:
            trainer, fit = run(slug, **RECIPE)
            fit()
            made[slug] = everything(trainer)
        return made[slug]

    return whole


def require_good(folder):
    """Every checkpoint of a run is whole and finite."""
    for path in sorted(folder.glob("checkpoints/step-*")):
        _, files = checkpoint.read(path)
        for tensors in files.values():
            assert first_not_finite(tensors) is None, path


def check_fault(slug, folder, whole, fault, policy):
    where = fault[0]
    trainer, fit = run(slug, folder, nonfinite=policy, **RECIPE)
    Fault(trainer, *fault)
    try:
        fit()
        ended = ""
    except StillhouseError as error:
        ended = str(error)
    require_good(folder)
    if not ended:  # left out, or without any effect
        assert where != "weight", "weights that are not finite were passed over"
        assert policy == "skip" or where in ("data", "condition")
        assert first_not_finite(everything(trainer)) is None
        assert policy == "skip" or same(everything(trainer), whole)
        return
    assert policy == "stop" or where == "weight", ended
    assert ended.endswith(".") and "not finite" in ended or "became" in ended
    kept = sorted(folder.glob("checkpoints/step-*"))
    assert f"the last good checkpoint is '{kept[-1]}'" in ended if kept else "no checkpoint yet" in ended
    assert not (folder / "model").exists()
    again, fit = run(slug, folder, resume=True, nonfinite=policy, **RECIPE)
    fit()
    assert same(everything(again), whole)


@pytest.mark.timeout(36000)
@pytest.mark.parametrize("slug", SLUGS)
def test_a_number_that_is_not_finite(slug, wholes, tally, long, tmp_path):
    players = run(slug)[0].players
    faults = [
        (where, player, step, number)
        for where, player, step, number in itertools.product(
            ("loss", "gradient", "weight", "data", "condition"),
            players,
            (0, STEPS // 2, STEPS - 1),
            (math.nan, math.inf),
        )
        if where not in ("data", "condition") or player == "student"
    ]
    every = list(itertools.product(faults, ("stop", "skip")))
    for number, (fault, policy) in enumerate(every if long else random.Random(slug).sample(every, FEW)):
        with tally.trial(f"not finite: {fault[0]}"):
            check_fault(slug, tmp_path / str(number), wholes(slug), fault, policy)
