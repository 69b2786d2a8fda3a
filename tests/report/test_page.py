"""The page: whole, valid, and without anything from the network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from shutil import copytree

import pytest
import torch
import yaml

from stillhouse.api.evaluate import evaluate
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.model import Model
from stillhouse.report.cards import best, summary
from stillhouse.report.charts import quality_charts
from stillhouse.report.figures import calls, duration, metrics_of
from stillhouse.report.page import render, write_report
from stillhouse.report.table import table
from stillhouse.report.view import RunView, Strip, make_view, view_of_folder
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Checker(HTMLParser):
    """Every tag closed in its turn, no id twice; collects tags and what they load."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.loads = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    assert all(load.startswith("data:image/png;base64,") for load in checker.loads)
    assert not {"script", "link", "iframe", "object"} & set(checker.tags)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    return checker


def journal(steps: int = 40) -> list[dict]:
    rows = [
        {
            "step": s,
            "student/loss": 1 / (s + 1),
            "student/gradient": 0.5,
            "fake/loss": 0.2,
            "fake/gradient": 0.1,
            "student/lr": 1e-3,
            "seconds": 0.1,
        }
        for s in range(0, steps, 4)
    ]
    return [*rows, {"step": steps - 1, "health/diversity": 0.4}, {"step": 0, "health/diversity": 0.2}]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A tiny run as the library leaves it: an untrained student of the exact mixture."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    world = get_world("mixture", layout="ring")
    net = world.network(Flow(), width=16, depth=1)
    student = Model(
        net,
        world.shape,
        world.classes,
        {1: Sampling([1.0, 0.0], "renoise")},
        world="mixture",
        info={"method": "cm"},
    )
    student.save_pretrained(folder / "model")
    config = {
        "method": "cm",
        "teacher": "exact",
        "world": world.config,
        "options": {"levels": 18, "note": "<b>&"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in journal()))
    from stillhouse.api.runs import teacher_of

    found = evaluate(student, world, teacher=teacher_of("exact", world), n=80, teacher_steps=(1, 4))
    (folder / "evaluation.json").write_text(json.dumps(found))
    return folder


def image_view(name: str, nfe: int, frechet: float | None, speed_up: float = 50.0) -> RunView:
    """A made-up run on images."""

    def row(who, steps, value, default):
        metrics = {"frechet": value, "recall": 0.5, "accuracy": 0.9}
        return {
            "who": who,
            "steps": steps,
            "nfe": steps,
            "guidance": 1.0,
            "solver": "ddim",
            "default": default,
            "metrics": metrics,
            "seconds_per_sample": 1e-4 * steps,
        }

    rows = [
        row("student", nfe, frechet, True),
        row("teacher", 64, 3.25, True),
        row("teacher", 1, 300.0, False),
    ]
    found = {
        "world": {"name": "mnist"},
        "n": 100,
        "seed": 0,
        "batch": 25,
        "metric": "frechet",
        "rows": rows,
        "floor": {"frechet": 2.0, "recall": 0.9, "accuracy": 0.99},
        "parameters": {"student": 500_000, "teacher": 1_000_000},
        "paired_rmse": 9.0,
        "speed_up": speed_up,
        "versions": {"torch": "2.13"},
    }
    draws = Draws(40, name)
    strips = [Strip(r["who"], r["steps"], r["nfe"], r["default"], draws.normal(1, 32, 32)) for r in rows]
    return RunView(
        name,
        "mnist",
        found,
        {"method": name},
        journal(),
        strips,
        torch.arange(40) % 10,
        [],
        draws.normal(1, 32, 32),
    )


def test_a_folder_becomes_a_whole_page(run_folder):
    out = write_report(run_folder, run_folder / "report.html")
    html = out.read_text()
    checker = check(html)
    assert {"pictures", "quality", "figures", "training", "configuration"} <= set(checker.ids)
    assert (
        checker.tags.count("h1") == 1
        and checker.tags.count("table") == 1
        and checker.tags.count("details") == 2
    )
    for part in (
        "cm",
        "exact mixture",
        "Sliced Wasserstein",
        "Loss of the student",
        "Gradient norms",
        "Diversity",
        "levels: 18",
        "torch:",
        "Real data",
    ):
        assert part in html
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html
    assert "&lt;b&gt;&amp;" in html and "<b>&" not in html  # what the user wrote is text, not markup


def test_teacher_and_student_are_drawn_from_the_same_noise(run_folder):
    view = view_of_folder(run_folder)
    again = view_of_folder(run_folder)
    assert {(s.who, s.steps) for s in view.strips} == {
        ("student", 1),
        ("teacher", 1),
        ("teacher", 4),
        ("teacher", 64),
    }
    for mine, its in zip(view.strips, again.strips, strict=True):
        assert torch.equal(mine.samples, its.samples)
    exact = get_world("mixture").exact(Flow())
    one = next(s for s in view.strips if s.who == "teacher" and s.steps == 1)
    noise = Draws(len(one.samples), 0, "report").normal(2)
    pred = exact(noise, torch.ones(len(noise)), view.labels)
    assert torch.allclose(
        one.samples, noise - pred.velocity, atol=1e-4
    )  # one Heun step is an Euler step at its clean end


def test_several_students_share_a_page(tmp_path):
    views = [image_view("slow", 4, 3.0), image_view("quick", 1, 6.2), image_view("worse", 1, 9.0)]
    assert best(views) == 1
    html = write_report(views, tmp_path / "deep" / "report.html").read_text()
    checker = check(html)
    assert checker.tags.count("article") == 3
    assert checker.tags.count("img") == 4 + 5  # default panels, and a strip for each way
    assert re.search(r"<h1>64 calls.*→.*1 call</em></h1>", html)
    text = " ".join(re.sub(r"<[^>]+>", "", html).split())
    assert "Fréchet distance 3.25 → 6.20, 50× faster." in text
    assert (
        "In the same 1 call, the teacher itself reaches 300; real data against real data gives 2.00." in text
    )


def test_speed_is_not_praised_over_quality_that_was_lost():
    """150 times faster, in bold, over a recall of 0 and a distance 24 times the teacher's is no success."""
    view = image_view("quick", 1, 78.0, speed_up=150.0)
    view.evaluation["rows"][0]["metrics"]["recall"] = 0.0
    html = render([view])
    check(html)
    text = " ".join(re.sub(r"<[^>]+>", "", html).split())
    assert "Far behind the teacher: Fréchet distance 78.0 (teacher 3.25), Recall 0 (teacher 0.500)." in text
    assert "150× faster" in text and not re.search(r"<b[^>]*>[^<]*faster", html)
    assert "Far behind" not in render([image_view("quick", 1, 6.2)])


def test_cards_hold_the_figures():
    card = summary(image_view("quick", 1, 6.2), 0)
    assert (card["calls"], card["quality"], card["weights"], card["floor"]) == (
        "1 call",
        "6.20",
        "500\u202f000",
        "2.00",
    )
    assert (card["before"]["nfe"], card["before"]["share"], card["before"]["few"]["quality"]) == (
        64,
        "50",
        "300",
    )
    assert card["trained"] == "4.00 s"  # 40 iterations of 0.1 s


def test_the_table_holds_every_way():
    shown = table([image_view("quick", 1, 6.2), image_view("other", 2, None)])
    assert [c.title for c in shown["columns"]] == ["Fréchet distance", "Class accuracy", "Recall"]
    assert [(r["name"], r["nfe"], r["fast"]) for r in shown["body"]] == [
        ("Teacher", 64, "1.0×"),
        ("Teacher", 1, "64×"),
        ("quick", 1, "50×"),
        ("other", 2, "50×"),
    ]
    assert shown["body"][3]["values"][0] == "–"
    assert shown["floor"] == ["2.00", "0.990", "0.900"]


def test_a_student_without_teacher_or_journal_has_a_page():
    view = image_view("alone", 1, 6.2)
    view.evaluation["rows"] = view.evaluation["rows"][:1]
    view.evaluation["speed_up"] = None
    view.strips, view.rows = view.strips[:1], []
    html = render([view])
    check(html)
    assert "alone</em> in 1 call" in html and "kept no journal" in html


def test_samples_that_cannot_be_drawn_leave_the_pictures_out():
    view = image_view("odd", 1, 6.2)
    for strip in view.strips:
        strip.samples = torch.zeros(40, 3, 5)
    html = render([view])
    check(html)
    assert 'id="pictures"' not in html


def test_quality_charts_show_the_first_metric_first():
    view = image_view("quick", 1, 6.2)
    view.evaluation["rows"][0]["metrics"]["recall"] = 0.4
    charts = quality_charts([view])
    assert [c["title"] for c in charts] == ["Fréchet distance", "Recall"]  # the accuracy is the same for all
    assert charts[0]["svg"].count("<circle") == 3 and 'class="rule"' in charts[0]["svg"]


def test_a_world_exists_for_a_view_made_by_hand():
    world = get_world("mixture", layout="moons")
    student = Model(world.exact(Flow()), world.shape, 0, {1: Sampling([1.0, 0.0])}, world="mixture")
    found = evaluate(student, world, n=40)
    view = make_view("mine", student, None, world, found)
    assert [s.who for s in view.strips] == ["student"] and view.real.shape == (1000, 2)
    check(render([view]))


def test_runs_of_several_worlds_are_compared_world_by_world(run_folder):
    page = render([image_view("a", 1, 1.0), view_of_folder(run_folder), image_view("b", 2, 1.0)])
    check(page)
    assert page.count("<header>") == 2 and 'id="pictures"' in page and page.count('id="pictures-') == 1


def test_captions_stand_above_the_pictures_that_were_asked_for():
    view = replace(image_view("a", 1, 1.0), captions=[f"scene {i}" for i in range(40)])
    page = render([view])
    check(page)
    assert "<li>scene 0</li>" in page and "<li>scene 9</li>" in page and "<li>scene 10</li>" not in page
    assert "one class a column" not in page


def test_a_figure_without_a_direction_is_refused():
    view = image_view("a", 1, 1.0)
    view.evaluation["rows"][0]["metrics"]["charm"] = 2.0
    with pytest.raises(StillhouseError, match="'charm', but declares no direction"):
        render([view])
    view.evaluation["metrics"] = {"charm": {"better": "high", "unit": "share", "help": "of smiles"}}
    assert metrics_of([view])["charm"].arrow == "↑" and "share of smiles" in render([view])
    view.evaluation["metrics"]["charm"]["better"] = "more"
    with pytest.raises(StillhouseError, match="better low, high"):
        render([view])


def test_a_page_tells_nothing_of_where_files_lie(run_folder, tmp_path):
    folder = copytree(run_folder, tmp_path / "run")
    config = yaml.safe_load((folder / "run.yaml").read_text())
    config |= {"method": "/home/ann/work/endpoints.py:Endpoints", "data": "/home/ann/pictures"}
    config["options"] = {"files": ["/home/ann/a.txt", "b/c.txt", 3]}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    view = view_of_folder(folder)
    assert view.name == "Endpoints" and view.config["data"] == "pictures"
    assert view.config["options"] == {"files": ["a.txt", "b/c.txt", 3]}
    assert "/home/ann" not in render([view])
    (folder / "run.yaml").write_text(yaml.safe_dump(config | {"method": "/home/ann/work/endpoints.py"}))
    assert view_of_folder(folder).name == "endpoints"


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(StillhouseError, match="at least one run"):
        render([])
    with pytest.raises(StillhouseError, match="no run folder"):
        write_report(tmp_path / "none", tmp_path / "r.html")
    (tmp_path / "run.yaml").write_text("method: cm\n")
    with pytest.raises(StillhouseError, match="has not been evaluated"):
        view_of_folder(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"rows": [')
    with pytest.raises(StillhouseError, match="can't be read"):
        view_of_folder(tmp_path)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(300, "5.0 min"), (4.2, "4.20 s"), (0.0123, "12.3 ms"), (3e-5, "30.0 µs"), (2e-9, "2.00 ns")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
    assert calls(1) == "1 call" and calls(3) == "3 calls"
