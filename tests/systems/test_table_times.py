"""A network that was trained on a table of steps is asked at steps of the table, by every system."""

from __future__ import annotations

import dataclasses

import pytest

from stillhouse.api.runs import data_of
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.schedules import ScaledLinearVP
from stillhouse.systems.registry import find, list_systems
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from tests.systems.contract_method import contract_of, drawn, small_teacher

# methods whose processes are another thing: tokens, bridges, a flow that is made straight; and tbcm, which
# differentiates along continuous angles
OTHERS = {"sdtt", "ibmd", "tad_sr", "slimflow", "tbcm"}
SLUGS = [row.slug for row in list_systems() if row.kind == "method" and row.slug not in OTHERS]


def off_table(slug):
    """The times, in steps of the table, at which some network was asked between two steps."""
    contract = dataclasses.replace(contract_of(slug), process=ScaledLinearVP(), kind="v")
    world, teacher = small_teacher(contract)
    method = find(slug)(**contract.options)
    data = data_of(None, world, teacher, method, 0)
    met = set()
    original = Denoiser.forward

    def forward(self, x_t, t, cond=None, **rest):
        if isinstance(self.process, ScaledLinearVP):
            met.update((t.double() * self.process.steps).flatten().tolist())
        return original(self, x_t, t, cond, **rest)

    Denoiser.forward = forward
    try:
        trainer = Trainer(method, teacher, data, Recipe(steps=8, batch=8), quiet=True)
        drawn(trainer, trainer.fit())
    finally:
        Denoiser.forward = original
    assert met
    return sorted(step for step in met if abs(step - round(step)) > 0.01)


@pytest.mark.parametrize("slug", SLUGS)
def test_no_network_is_asked_between_two_steps_of_its_table(slug):
    assert off_table(slug) == []
