"""Times on a process that is a table: its steps, counted as its users count them."""

from __future__ import annotations

import torch

from stillhouse.core.draws import Draws
from stillhouse.core.schedules import Flow, ScaledLinearVP
from stillhouse.parts.states.backward_simulation import student_grid
from stillhouse.parts.states.time_sampler import TIME_SAMPLERS, at_step, time_sampler, trained
from stillhouse.solvers.grids import make_grid

TABLE = ScaledLinearVP()


def test_the_next_step_of_the_table_is_taken_and_the_clean_end_stays():
    t = torch.tensor([0.0, 1e-9, 0.001, 0.0010004, 0.1666667, 0.25, 3 / 7, 1.0])
    steps = (TABLE.on_table(t).double() * 1000).round(decimals=3).tolist()
    assert steps == [0, 1, 1, 1, 167, 250, 429, 1000]
    assert torch.equal(Flow().on_table(t), t)
    # every i / n that is a step is found in float32, not the step above it
    for n in (2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 1000):
        grid = torch.arange(n + 1) / n
        torch.testing.assert_close(TABLE.on_table(grid), grid)


def test_published_steps_are_those_of_the_table():
    named = at_step(TABLE, torch.tensor([10, 250, 500, 750]) / 1000)
    assert TABLE.index_of_time(named.double()).round(decimals=3).tolist() == [10, 250, 500, 750]
    assert at_step(Flow(), torch.tensor([0.25])).item() == 0.25
    first = at_step(TABLE, torch.tensor([0]) / 1000)
    assert TABLE.index_of_time(first.double()).abs().item() < 1e-4


def test_every_law_and_every_even_grid_keeps_to_the_table():
    for name in TIME_SAMPLERS:
        step = TABLE.index_of_time(time_sampler(name, TABLE, Draws(500, name)).double())
        assert (step - step.round()).abs().max() < 1e-3 and step.min() > -0.5 and step.max() < 999.5
    assert trained(TABLE, torch.zeros(1)).item() > 0
    for times in (student_grid(TABLE, 1.0, 3), make_grid("uniform", TABLE, 6).tolist()):
        steps = torch.tensor(times, dtype=torch.float64) * 1000
        assert (steps - steps.round()).abs().max() < 1e-6
    assert make_grid("uniform", TABLE, 6)[-1] == 0 and make_grid("uniform", TABLE, 6)[0] == 1
