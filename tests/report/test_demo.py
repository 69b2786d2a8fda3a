"""The demo's folder, its refusals, and a run of it in small."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.report import demo
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world
from stillhouse.worlds.finite import FiniteWorld

TINY = {
    "dmd2": {"iterations": 2, "batch": 4, "seconds": 1e-6, "fake_per_student": 2},
    "progressive": {"iterations": 2, "batch": 4, "teacher_steps": 4, "steps": 2, "seed": 3},
}


def teacher_of(world_name: str, folder, *, free: bool = True) -> str:
    world = get_world(world_name)
    net = world.network(Flow(), **({"channels": (8, 16)} if world_name == "mnist" else {}))
    Model(
        net,
        world.shape,
        world.classes,
        {2: Sampling.steps(Flow(), 2, "ddim")},
        free_steps=free,
        world=world_name,
    ).save_pretrained(folder)
    return str(folder)


def test_the_demo_in_small_and_again(tmp_path, monkeypatch, capsys):
    # the metrics have tests of their own, and would take most of this one's time
    monkeypatch.setattr(
        FiniteWorld,
        "measure",
        lambda self, samples, labels=None, *, generator=None: {"frechet": float(samples.std())},
    )
    monkeypatch.setattr(FiniteWorld, "floor", lambda self, n, seed=0: {"frechet": 1.0})
    monkeypatch.setattr(demo, "TRIAL", 2)
    monkeypatch.setattr(demo, "TEACHER_STEPS", {"mnist": (1, 2)})
    teacher, out = teacher_of("mnist", tmp_path / "mine"), tmp_path / "runs" / "demo"
    page = demo.main(out, teacher, recipes={"mnist": TINY}, n=16, quiet=True)
    assert page == out / "report.html" and page.stat().st_size > 20_000
    found = json.loads((out / "metrics.json").read_text())
    assert list(found["students"]["mnist"]) == ["dmd2", "progressive"] and found["teachers"] == {
        "mnist": teacher
    }
    assert {r["who"] for r in found["students"]["mnist"]["dmd2"]["rows"]} == {"student", "teacher"}
    for slug in TINY:
        assert load(out / "mnist" / slug / "model").shape == (1, 32, 32)
        assert (out / "mnist" / slug / "evaluation.json").is_file() and (
            out / "mnist" / slug / "metrics.jsonl"
        ).is_file()
    (out / "stale").write_text("of the first run")
    demo.main(out, teacher, recipes={"mnist": {"dmd2": TINY["dmd2"]}}, n=16)
    assert not (out / "stale").exists() and not (out / "mnist" / "progressive").exists() and page.exists()
    assert sorted(p.name for p in out.parent.iterdir()) == ["demo"]
    pred = capsys.readouterr().out
    assert "report.html" in pred and "real data" in pred and "1 call" in pred


def test_the_second_half_makes_a_lora_of_a_pipeline(tmp_path, monkeypatch):
    row = {"who": "student", "nfe": 4, "metrics": {"fidelity": 1.0}, "seconds_per_sample": 1.0}
    found = {"metric": "fidelity", "rows": [row], "floor": {}, "metrics": {"fidelity": {"title": "Fidelity"}}}
    # both have tests of their own, and would take most of this one's time
    monkeypatch.setattr(demo, "evaluate", lambda student, world, **options: found)
    monkeypatch.setattr(demo, "write_report", lambda runs, page, title: page.write_text(title))
    (slug,) = demo.SCENES
    short = {"iterations": 1, "batch": 2, "lora": 2, "ema": 0.0}
    recipe = {k: v for k, v in demo.SCENES[slug].items() if k != "seconds"} | short
    page = demo.main(tmp_path / "demo", recipes={"shapes": {slug: recipe}}, n=8, quiet=True)
    assert page.read_text() == "shapes-pipeline, distilled"
    assert json.loads((page.parent / "metrics.json").read_text())["teachers"] == {"shapes": "shapes-pipeline"}
    assert (page.parent / "shapes" / slug / "model" / "lora").is_dir()


BARE = """
import sys

class Without:  # a finder of modules, as if some were not installed
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *where):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, *where)

    def __getattr__(self, name):
        return getattr(self.finder, name)

out, absent = sys.argv[1], set(sys.argv[2:])
sys.meta_path[:] = map(Without, sys.meta_path)
from stillhouse.report import demo

demo.TEACHER_STEPS = {"shapes": (1,)}
recipe = {**demo.SCENES["lcm"], "iterations": 1, "batch": 2}
del recipe["seconds"]
demo.main(out, recipes={"shapes": {"lcm": recipe}}, n=8, quiet=True)
demo.get_world("mnist").floor(16)
"""


def installed_with(extra: str) -> set[str]:
    """Names of the distributions that an installation with this extra brings."""
    found, seen, to_see = set(), set(), [("stillhouse", frozenset({extra}))]
    while to_see:
        name, extras = to_see.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # of another system or version
            continue
        for line in map(Requirement, lines):
            if line.marker is None or any(line.marker.evaluate({"extra": e}) for e in ("", *extras)):
                to_see.append((canonicalize_name(line.name), frozenset(line.extras)))
    return found


def test_what_make_demo_installs_is_enough_for_it(tmp_path):
    there = installed_with("demo")
    absent = [
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & there
    ]
    assert {"pytest", "skimage", "gymnasium"} <= {*absent} and "torch" not in absent
    words = [sys.executable, "-c", BARE, str(tmp_path / "demo"), *absent]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "demo" / "report.html").is_file()


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StillhouseError, match="did not make"):
        demo._claim(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    out = tmp_path / "demo"
    work, _ = demo._beside(out)
    work.mkdir()
    (work / "notes").write_text("mine")
    with pytest.raises(StillhouseError, match="did not make"):
        demo._claim(out)
    assert (work / "notes").exists() and not out.exists()


def test_an_interrupted_demo_leaves_the_earlier_one(tmp_path):
    out = tmp_path / "demo"
    work = demo._claim(out)
    (work / "report.html").write_text("first")
    demo._swap(work, out)
    torn = demo._claim(out)
    (torn / "half").write_text("")
    assert (out / "report.html").read_text() == "first"
    assert not (demo._claim(out) / "half").exists()
    # cut off between the two renames: the earlier result comes back
    out.rename(demo._beside(out)[1])
    demo._claim(out)
    assert (out / "report.html").read_text() == "first"


def test_only_teachers_of_the_world_are_taken(tmp_path):
    with pytest.raises(StillhouseError, match=r"samples of shape \(1, 32, 32\).* this one makes \(1, 8, 8\)"):
        demo.main(tmp_path / "out", teacher_of("digits", tmp_path / "digits"), quiet=True)
    with pytest.raises(StillhouseError, match="many-step teacher"):
        demo.main(tmp_path / "out", teacher_of("mnist", tmp_path / "student", free=False), quiet=True)
    with pytest.raises(StillhouseError, match="no model"):
        demo.main(tmp_path / "out", tmp_path / "missing", quiet=True)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.tmp").exists()


def test_recipes_name_real_options():
    from stillhouse.api.options import build_recipe
    from stillhouse.api.system import split_options, system_class, system_of

    students = [(slug, recipe) for world in demo.RECIPES.values() for slug, recipe in world.items()]
    for slug, recipe in students:
        own, run_options = split_options(
            system_class(slug), {k: v for k, v in recipe.items() if k != "seconds"}
        )
        method, run = system_of(slug, own), build_recipe(run_options)
        assert method.describe()["method"] == slug and run.steps == recipe["iterations"]
    assert sum(recipe["seconds"] for _, recipe in students) <= 210  # of the 300 that the whole demo may take


def test_a_slow_machine_measures_fewer_samples(monkeypatch):
    class Teacher:
        samplings = {64: None}

        def sample(self, n, steps):
            made.append((n, steps))
            clock[0] += n * steps * pace[0]

    made, clock, pace = [], [0.0], [0.0]
    monkeypatch.setattr(demo.time, "perf_counter", lambda: clock[0])
    steps = sum({64, *demo.TEACHER_STEPS["mnist"]})
    fits = 60 / steps
    for pace[0], expected in ((fits / 1000, 400), (fits / 250.5, 250), (fits, demo.FEWEST)):
        assert demo._samples("mnist", Teacher(), 400, 60) == expected
    pace[0] = fits / 250.5
    assert demo._samples("mnist", Teacher(), 400, 30) == 125
    assert demo._samples("mnist", Teacher(), 16, 60) == 16
    assert made[:2] == [(demo.TRIED, 1), (demo.TRIED, 2)]


def test_parts_that_took_long_shorten_those_that_follow(monkeypatch):
    clock = [5.0]
    monkeypatch.setattr(demo.time, "perf_counter", lambda: clock[0])
    plan = demo.Plan(100, [40, 60, 100])
    assert plan.take() == 20  # there is time for half of what is planned
    clock[0] += 20
    assert plan.take() == 30
    clock[0] += 70
    assert plan.take() == 10
    late = demo.Plan(0, [10])
    clock[0] += 1
    assert late.take() == 0
    assert demo.Plan(100, [40]).take() == 40  # no part is longer than planned


def test_the_plan_has_a_part_for_all_that_is_taken(monkeypatch):
    parts = demo._parts({"mnist": {"a": {"seconds": 7}, "b": {}}, "shapes": {"c": {"seconds": 9}}})
    beside, mnist, shapes = demo.BESIDE, demo.MEASURING["mnist"], demo.MEASURING["shapes"]
    assert parts == [beside, 7, mnist, beside, beside, 9, shapes, demo.PAGE]
