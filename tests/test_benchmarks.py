"""The benchmarks' documented commands start on every system that they are for."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import busy, fixed
from benchmarks.common import IMAGES, trainers
from benchmarks.overhead import ratio
from stillhouse.systems.registry import list_systems

PAGE = (Path(__file__).parent.parent / "docs/benchmarks.md").read_text()


def test_without_names_all_systems_of_images_run_and_the_others_are_left_out(capsys):
    ran = []
    for slug, run in trainers([], 2):
        run.prepare()
        spent, share = ratio(run, 0)
        assert spent > 0 and share > 0
        ran.append(slug)
    left = re.findall(r"^(\w+): left out", capsys.readouterr().err, re.M)
    assert sorted(ran + left) == sorted(system.slug for system in list_systems())
    of_images = {s.slug for s in list_systems() if s.kind == "method" and IMAGES & set(s.worlds)}
    assert set(ran) == of_images


@pytest.mark.parametrize("name", sorted(set(re.findall(r"python -m benchmarks\.(\w+)", PAGE))))
def test_a_documented_benchmark_has_the_options_that_its_command_gives(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        import_module(f"benchmarks.{name}").main()
    text = capsys.readouterr().out
    for line in re.findall(rf"python -m benchmarks\.{name}(.*)", PAGE):
        for option in re.findall(r"(--[\w-]+)", line):
            assert option in text, f"{name} has no {option}"


@pytest.mark.parametrize("slug", fixed.SAME)
def test_the_fixed_cost_is_of_iterations_with_the_same_turns(slug, monkeypatch):
    run = fixed.trainer(slug, batch=8)
    assert len({tuple(run.method.turns(step)) for step in range(8)}) == 1
    spent = iter([6.0, 4.0, 9.0, 4.0, 8.0, 2.0])  # ours and by hand, of two iterations, in turn
    monkeypatch.setattr(fixed, "cost", lambda work: (work(), next(spent))[1])
    assert fixed.fixed(run, 3, 2) == (2.0, 2.5)


def test_trainings_are_counted_idle_and_beside_others(monkeypatch, capsys):
    asked = []

    def measured(way, seconds, threads):
        asked.append((way.get("GOMP_SPINCOUNT"), seconds, threads, len(working)))
        return 100 // len(asked)

    working = []
    start, kill = busy.subprocess.Popen, busy.subprocess.Popen.kill
    monkeypatch.setattr(busy, "measured", measured)
    monkeypatch.setattr(busy.subprocess, "Popen", lambda words: working.append(start(words)) or working[-1])
    monkeypatch.setattr(start, "kill", lambda process: working.remove(process) or kill(process))
    monkeypatch.setattr(sys, "argv", ["busy", "--busy", "1", "--seconds", "3"])
    busy.main()
    assert asked == [("1000", 3.0, 2, 0), (None, 3.0, 2, 0), ("1000", 3.0, 2, 1), (None, 3.0, 2, 1)]
    assert not working
    shown = capsys.readouterr().out
    assert "| idle | GOMP_SPINCOUNT=1000 | 100 | 1.000 |" in shown
    assert "| beside 1 processes | OpenMP's own | 25 | 0.250 |" in shown
