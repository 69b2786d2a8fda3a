"""Every check runs to its claims: its own code, with two iterations for each stage of a training.

A check takes minutes and is run by hand; what it calls changes under it. Its figures are not looked at here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stillhouse.checks.runner import load_check, run_check
from stillhouse.systems.registry import list_systems
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.train.stage import locate

FEW = 2


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trainings leave out all iterations but the first of a stage. Returns which were run."""
    ran: list[int] = []
    begin, iterate = Trainer.__init__, Trainer.iterate

    def small(
        self: Trainer, method: Any, teacher: Any, data: Any, recipe: Recipe, *rest: Any, **more: Any
    ) -> None:
        begin(self, method, teacher, data, replace(recipe, batch=min(16, recipe.batch)), *rest, **more)

    def first(self: Trainer, step: int) -> None:
        if locate(self.method.plan, step)[1] < FEW:
            iterate(self, step)
            ran.append(step)

    monkeypatch.setattr(Trainer, "__init__", small)
    monkeypatch.setattr(Trainer, "iterate", first)
    return ran


@pytest.mark.parametrize("system", list_systems(), ids=lambda system: system.slug)
def test_the_code_of_a_check_reaches_its_claims(
    system: Any, short: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_check(system.slug)
    if hasattr(module, "RUNS"):
        monkeypatch.setattr(module, "RUNS", 1)
    outcome = run_check(system.slug)
    assert not [c.claim for c in outcome.claims if c.claim.startswith("the run reaches its end, but")]
    assert short or system.kind != "method"
