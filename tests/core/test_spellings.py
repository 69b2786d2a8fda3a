"""Names of before are read as those of now."""

import logging

from stillhouse.core.spellings import (
    current_modules,
    current_option,
    current_options,
    current_run,
    current_weights,
)


def test_an_option_is_called_what_a_system_has() -> None:
    assert current_option("low", {"score_t_min", "last_time"}) == "score_t_min"
    assert current_option("low", {"last_time"}) == "last_time" and current_option("low", {"low"}) == "low"
    assert current_option("low", set()) == "low" and current_option("steps", {"first_time"}) == "steps"


def test_a_renamed_option_is_said_once(caplog) -> None:
    with caplog.at_level(logging.WARNING, "stillhouse"):
        made = current_options({"start": 0.5, "steps": 4}, {"first_time", "steps"})
    assert made == {"first_time": 0.5, "steps": 4}
    assert [record.getMessage() for record in caplog.records] == [
        "The option 'start' is called 'first_time' now."
    ]


def test_parts_of_names_of_weights_and_modules() -> None:
    weights = {"blocks.0.told.weight": 1, "hear.bias": 2, "untold.weight": 3, "net/told.bias": 4, "told": 5}
    assert current_weights(weights) == {
        "blocks.0.modulation.weight": 1,
        "feature_embed.bias": 2,
        "untold.weight": 3,
        "net/modulation.bias": 4,
        "told": 5,
    }
    modules = {"slow.heir/a": 1, "slow.student/told.b": 2, "student/slow.c": 3, "frozen.eye/d": 4}
    assert current_modules(modules) == {
        "ema.next_teacher/a": 1,
        "ema.student/modulation.b": 2,
        "student/slow.c": 3,
        "frozen.feature_net/d": 4,
    }


def test_a_run_of_before() -> None:
    before = {"accumulate": 2, "method": {"method": "dmd", "options": {"start": 0.5, "pairs": 3}}}
    now = {"grad_accum": 1, "method": {"options": {"first_time": 1.0, "pairs": 1, "later": 0}}}
    made = current_run(before, now, {"later": 7, "pairs": 9})
    assert made == {
        "grad_accum": 2,
        "method": {"method": "dmd", "options": {"later": 7, "first_time": 0.5, "pairs": 3}},
    }
    assert current_run({}, {}) == {"method": {"options": {}}}
    assert current_run({"method": None}, now)["method"] == {"options": {}}
