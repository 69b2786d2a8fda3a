"""The runner of checks, on small checks made up here."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stillhouse import checks, cli
from stillhouse.checks import runner
from stillhouse.checks.base import Claim, at_least, at_most
from stillhouse.core.errors import StillhouseError

GOOD = """
from stillhouse.checks.base import at_least, at_most
from stillhouse.core.errors import StillhouseError
WORLD = "mixture"
ABLATIONS = {"idea": "the idea itself", "run": "what keeps the run alive"}

def check(seed, ablation=""):
    if ablation == "run":
        raise StillhouseError("the loss is not finite")
    return [at_most("small error", 0.5 + seed / 100, 0.75), at_least("modes held", 2 if ablation else 8, 8)]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of checks before ours, with a check of the system `one`, and none of `two`."""
    family = tmp_path / "some_family"
    family.mkdir()
    (family / "one.py").write_text(GOOD)
    monkeypatch.setattr(checks, "__path__", [str(tmp_path), *checks.__path__])
    monkeypatch.setattr(
        runner, "choose", lambda slugs, everything: ["one", "two"] if everything else list(slugs)
    )
    yield family
    for name in ("one", "two"):
        sys.modules.pop(f"stillhouse.checks.some_family.{name}", None)


def test_claims_hold_on_their_side_of_the_bound() -> None:
    assert at_most("a", 0.75, 0.75) == Claim("a", 0.75, "<= 0.75", True)
    assert not at_most("a", 0.7501, 0.75).holds
    assert at_least("b", 3, 3).holds and not at_least("b", 2.99, 3).holds
    assert not at_most("c", math.nan, 1).holds and not at_least("c", math.nan, 1).holds
    assert at_most("c", math.nan, 1).config() == {
        "claim": "c",
        "value": None,
        "bound": "<= 1",
        "holds": False,
    }


def test_a_check_that_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "one", "--seed", "10"]) == 0
    shown = capsys.readouterr().out
    assert "0.6" in shown and "<= 0.75" in shown and "small error" in shown and "FAILS" not in shown


def test_a_check_that_fails(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "one", "--seed", "30"]) == 1
    assert "FAILS  0.8" in capsys.readouterr().out


def test_json_is_one_object_a_system(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "one", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert list(made) == ["slug", "world", "seconds", "claims", "holds"]
    assert (made["slug"], made["world"], made["holds"]) == ("one", "mixture", True)
    assert made["claims"][0] == {"claim": "small error", "value": 0.5, "bound": "<= 0.75", "holds": True}


def test_ablations_must_fail(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "one", "--ablate", "--json"]) == 0
    idea, run = map(json.loads, capsys.readouterr().out.splitlines())
    assert (idea["ablation"], idea["holds"], run["ablation"], run["holds"]) == ("idea", False, "run", False)
    assert "not finite" in run["claims"][0]["claim"] and run["claims"][0]["value"] is None

    (place / "one.py").write_text(GOOD.replace("2 if ablation else 8", "8"))
    del sys.modules["stillhouse.checks.some_family.one"]
    assert cli.main(["check", "one", "--ablate"]) == 1
    shown = capsys.readouterr().out
    assert "HOLDS, THOUGH IT SHOULD FAIL" in shown and "1 of 2" in shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "The system 'two' has no check"),
        ("WORLD = 'mixture'\nABLATIONS = {'a': 'b'}\n", "lacks check"),
        (
            GOOD.replace('{"idea": "the idea itself", "run": "what keeps the run alive"}', "{}"),
            "names no ablation",
        ),
    ],
)
def test_all_needs_every_check_before_the_first_is_run(
    place: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    if text is not None:
        (place / "two.py").write_text(text)
    assert cli.main(["check", "--all"]) == 2
    out, err = capsys.readouterr()
    assert told in err and out == ""


def test_a_check_without_claims_is_a_defect(place: Path) -> None:
    (place / "two.py").write_text(
        GOOD[: GOOD.index("def check")] + "def check(seed, ablation=''):\n    return []\n"
    )
    with pytest.raises(StillhouseError, match="makes no claim"):
        runner.run_check("two")
    with pytest.raises(StillhouseError, match="no ablation of 'one' named 'ida'; did you mean 'idea'"):
        runner.run_check("one", 0, "ida")


def test_choice_of_systems() -> None:
    with pytest.raises(StillhouseError, match="Name the systems"):
        runner.choose([], False)
    with pytest.raises(StillhouseError, match="did you mean 'slimflow'"):
        runner.choose(["slimflw"], False)
    assert runner.choose(["cm", "sid"], False) == ["cm", "sid"]
    assert {"cm", "dmd", "tbcm"} <= set(runner.choose([], True))


def test_jobs_give_the_same_outcomes_in_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # threads in the place of new processes, which would not know of the checks made up here
    monkeypatch.setattr(runner, "ProcessPoolExecutor", lambda jobs, mp_context: ThreadPoolExecutor(jobs))
    (place / "two.py").write_text(GOOD.replace("0.5 +", "0.25 +"))
    values = [o.claims[0].value for o in runner.run_checks(["one", "two"], seeds=[5], jobs=2)]
    assert values == [o.claims[0].value for o in runner.run_checks(["one", "two"], seeds=[5])] == [0.55, 0.3]
    with pytest.raises(StillhouseError, match="jobs is 1 or more"):
        list(runner.run_checks(["one"], jobs=0))


def test_a_check_that_its_user_stops_is_no_failed_claim(place: Path) -> None:
    (place / "one.py").write_text(
        GOOD.replace("StillhouseError(", "Interrupted(").replace(
            "stillhouse.core.errors import StillhouseError", "stillhouse.train.loop import Interrupted"
        )
    )
    with pytest.raises(StillhouseError, match="the loss"):
        runner.run_check("one", 0, "run")
