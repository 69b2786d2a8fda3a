"""A check over several seeds: what it prints, what it yields, and the table that is made of it."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse import checks, cli
from stillhouse.checks import runner
from stillhouse.checks.base import at_least, at_most
from stillhouse.checks.runner import Outcome
from stillhouse.checks.spread import spread
from tools import check_table

CHECK = """
from stillhouse.checks.base import at_least, at_most
from stillhouse.core.errors import StillhouseError
WORLD = "mixture"
ABLATIONS = {"idea": "the idea itself"}

def check(seed, ablation=""):
    if seed == 9:
        raise StillhouseError("the loss is not finite")
    error = (1 if ablation else 0.5) + seed / 100
    return [at_most("small | error", error, 0.55), at_least("modes held", 8, 8),
            at_least("the same", 8 + seed, 1), at_least("the same", 8 - seed, 1)]
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A check of the system `made_up` beside ours."""
    (tmp_path / "some_family").mkdir()
    (tmp_path / "some_family/made_up.py").write_text(CHECK)
    monkeypatch.setattr(checks, "__path__", [str(tmp_path), *checks.__path__])
    monkeypatch.setattr(runner, "choose", lambda slugs, everything: list(slugs))
    yield
    sys.modules.pop("stillhouse.checks.some_family.made_up", None)


def outcome(*claims, ablation="") -> Outcome:
    return Outcome("made_up", "mixture", 2.0, claims, ablation)


def test_deviations_between_mean_and_bound():
    values = [0.5, 0.6, 0.7, 0.4]
    made = spread([outcome(at_most("a", v, 1.0), at_least("b", v, 0.45)) for v in values], range(4))
    deviation = statistics.stdev(values)
    below, above = made.claims
    assert below.mean == pytest.approx(0.55) and below.deviation == pytest.approx(deviation)
    assert below.deviations == pytest.approx(0.45 / deviation) and not below.near
    assert above.deviations == pytest.approx(0.1 / deviation) and above.near
    assert all(below.holds) and above.holds == (True, True, True, False) and not made.as_it_should


def test_values_that_never_differ_and_values_that_are_missing():
    same = spread([outcome(at_least("modes", 8, 8), at_most("n", 2, 1))] * 3, range(3))
    assert [c.deviations for c in same.claims] == [math.inf, -math.inf]
    assert same.config()["claims"][0]["deviations"] is None  # JSON has no infinity
    (lost,) = spread([outcome(at_most("a", 0, 1)), outcome(at_most("a", math.nan, 1))], range(2)).claims
    assert math.isnan(lost.deviation) and math.isnan(lost.deviations) and lost.holds == (True, False)


def test_seeds_by_number(check, capsys):
    assert cli.main(["check", "made_up", "--seeds", "4"]) == 0
    head, names, error, modes, *rest = capsys.readouterr().out.splitlines()
    assert head.startswith("made_up on mixture, each of the seeds 0, 1, 2, 3,") and "deviation" in names
    assert error.split()[:6] == ["holds", "0.515", "0.0129", "<=", "0.55", "2.71"]
    assert modes.split()[:6] == ["holds", "8", "0", ">=", "8", "inf"]
    assert "1 of 1 as they should be" in rest[-1]


def test_seeds_that_are_listed(check, capsys):
    assert cli.main(["check", "made_up", "--seeds", "4,5,9", "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert list(made) == ["slug", "world", "seconds", "seeds", "claims", "holds"]
    assert made["seeds"] == [4, 5, 9] and made["holds"] is False
    # claims with one sentence are two claims, and the run that ended in an error counts as one that fails
    assert [c["claim"] for c in made["claims"]][:4] == ["small | error", "modes held", "the same", "the same"]
    assert made["claims"][2]["values"] == [12, 13, None] and made["claims"][3]["values"] == [4, 3, None]
    assert "not finite" in made["claims"][4]["claim"] and made["claims"][4]["values"] == [None] * 3


def test_an_ablation_must_fail_on_every_seed(check, capsys):
    assert cli.main(["check", "made_up", "--ablate", "--seeds", "2"]) == 0
    assert "fails as it should" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["0", "1,1", "1,-2", "two", "2 --seed 1"])
def test_seeds_that_are_none(check, words, capsys):
    assert cli.main(["check", "made_up", "--seeds", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "--seed" in err and "Traceback" not in err


def test_the_table_of_the_page_is_written_from_the_lines(check, tmp_path, capsys):
    for seeds in ("2", "3"):  # a later line of a system takes the place of the earlier one
        assert cli.main(["check", "made_up", "--json", "--seeds", seeds]) == 0
    assert cli.main(["check", "made_up", "--json", "--ablate", "--seeds", "2"]) == 0
    (tmp_path / "lines.jsonl").write_text(capsys.readouterr().out + "\n")
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- checks -->\nold\n<!-- /checks -->\n\nAfter.\n")
    assert check_table.main([str(tmp_path / "lines.jsonl"), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("Before.\n\n<!-- checks -->\n") and text.endswith("<!-- /checks -->\n\nAfter.\n")
    assert "old" not in text
    assert "| made_up: small \\| error | ≤ 0.55 | 0.51 | 0.01 | 4.0 |" in text
    assert "| made_up: modes held | ≥ 8 | 8 | 0 | same |" in text
    assert "seeds 0 to 2" in text and "1 of 1 ablations" in text
    once = text
    assert check_table.main([str(tmp_path / "lines.jsonl"), "--page", str(page)]) == 0
    assert page.read_text() == once


def test_the_page_has_the_place_of_the_table():
    page = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()
    assert page.count("<!-- checks -->") == page.count("<!-- /checks -->") == 1
