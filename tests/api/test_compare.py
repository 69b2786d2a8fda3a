"""Evaluations without a world: tiny pipelines, and modules of one's own."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import stillhouse
from stillhouse import HeldOut
from stillhouse.api.compare import distribution, shown
from stillhouse.api.held_out import prompts_of_data, prompts_of_run
from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines.tiny import build
from stillhouse.model import Model
from stillhouse.report.page import render
from stillhouse.report.view import view_of_folder

PROMPTS = ("a red circle", "a blue square", "fog")


class Points(nn.Module):
    """A field on the plane that looks at its condition, a dict, if it is given one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x, t, cond=None):
        where = x.new_zeros(len(x), 1) if cond is None else cond["place"]
        return self.layers(torch.cat([x, t[:, None], where], 1)) + 3 * where


def points(seed: int = 0, steps: int = 6) -> Model:
    torch.manual_seed(seed)
    return stillhouse.load(Points(), shape=(2,), steps=steps)


def few_steps(teacher: Model, *steps: int) -> Model:
    """A student that is its teacher, walked in fewer steps."""
    walks = {k: teacher.sampling(k) for k in steps}
    return Model(
        teacher.denoiser,
        teacher.shape,
        teacher.classes,
        walks,
        text=teacher.text,
        codec=teacher.codec,
        pipeline=teacher.pipeline,
    )


def rows(found: dict, who: str) -> dict[int, dict]:
    return {r["steps"]: r for r in found["rows"] if r["who"] == who}


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux"])
def test_pipelines_are_evaluated_and_shown_beside_their_teacher(kind, tmp_path):
    teacher = stillhouse.load(build(kind, tmp_path / "base"), height=32, width=32)
    teacher.samplings = {3: teacher.sampling(3)}
    student = few_steps(teacher, 1, 2)
    (tmp_path / "run.yaml").write_text("method: lcm\nteacher: base\n")
    found = stillhouse.evaluate(student, HeldOut(PROMPTS, batch=4), teacher=teacher, n=8, out=tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found
    assert set(rows(found, "student")) == {1, 2} and set(rows(found, "teacher")) == {1, 2, 3}
    # the same network in as many steps from the same noise makes the same pictures
    for k in (1, 2):
        mine, its = rows(found, "student")[k]["metrics"], rows(found, "teacher")[k]["metrics"]
        assert mine == pytest.approx(its, rel=1e-3, abs=1e-4)
        assert 0 < mine["paired_samples"] < found["floor"]["paired_samples"] and mine["paired_latents"] > 0
        assert {"frechet", "kid", "precision", "recall", "diversity"} <= set(mine)
    assert "paired_samples" not in rows(found, "teacher")[3]["metrics"] and found["speed_up"] > 1
    kept = load_file(tmp_path / "evaluation.safetensors")
    assert set(kept) == {*map(str, range(5)), "real"} and kept["0"].shape == (8, 3, 32, 32)
    html = render([view_of_folder(tmp_path)])
    for part in ("lcm", "a red circle", "The teacher from other noise", "Paired distance", "library"):
        assert part in html


def test_the_same_student_in_all_steps_has_nothing_lost():
    teacher = points()
    found = stillhouse.evaluate(few_steps(teacher, 6), teacher=teacher, n=64)
    mine = rows(found, "student")[6]["metrics"]
    assert mine["paired_samples"] == 0 and mine["recall"] > 0.8
    # what is compared with is of other noise: an equal student is at the floor, and not at 0
    assert mine["frechet"] == pytest.approx(found["floor"]["frechet"]) and mine["frechet"] > 1e-4
    assert found["metric"] == "frechet" and found["world"]["features"] == "own numbers"


def test_another_network_is_worse_in_every_figure():
    teacher, other = points(), points(1)
    other.denoiser.net.layers[2].bias.data += 4
    mine, its = (
        rows(stillhouse.evaluate(few_steps(m, 6), teacher=teacher, n=64), "student")[6]["metrics"]
        for m in (other, teacher)
    )
    assert mine["frechet"] > 5 * its["frechet"] and mine["kid"] > its["kid"]
    assert mine["paired_samples"] > 1 and mine["recall"] < its["recall"]


def test_conditions_of_ones_own_reach_the_network_and_diversity_is_within_one():
    teacher, places = points(), torch.tensor([[-1.0], [1.0]])
    found = stillhouse.evaluate(
        few_steps(teacher, 6), HeldOut(conditions={"place": places}, batch=16), teacher=teacher, n=32
    )
    without = stillhouse.evaluate(few_steps(teacher, 6), teacher=teacher, n=32)
    assert found["world"]["conditions"] == 2 and "diversity" not in rows(without, "student")[6]["metrics"]
    # two places that are far apart: samples of one are near each other
    assert rows(found, "student")[6]["metrics"]["diversity"] < 0.7
    assert found["floor"]["frechet"] != without["floor"]["frechet"]


def test_data_takes_the_place_of_the_teachers_samples():
    teacher = points()
    data = teacher.sample(400, seed=5)
    near, far = (stillhouse.evaluate(few_steps(teacher, 6), HeldOut(data=x), n=64) for x in (data, data + 3))
    assert near["world"]["reference"] == "data" and near["speed_up"] is None
    assert rows(near, "student")[6]["metrics"]["recall"] > 0.7
    assert (
        rows(far, "student")[6]["metrics"]["frechet"] > 100 * rows(near, "student")[6]["metrics"]["frechet"]
    )
    assert far["floor"]["frechet"] == pytest.approx(near["floor"]["frechet"], abs=0.02)


def test_pictures_in_a_folder_are_data(tmp_path):
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (20, 30), (40 * i, 255 - 40 * i, 90)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"colour {i // 2}")
    assert prompts_of_data(tmp_path) == ["colour 0", "colour 1", "colour 2"]
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 1)
    model = stillhouse.load(Called(net), shape=(3, 8, 8), steps=2)
    found = stillhouse.evaluate(model, HeldOut(data=tmp_path), n=8)
    assert found["floor"]["frechet"] > 0 and any("6 samples of data" in note for note in found["notes"])


class Called(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x, t, cond=None):
        return self.net(x)


def test_everything_but_the_times_follows_from_the_seed():
    teacher = points()

    def figures(seed: int) -> list[dict]:
        found = stillhouse.evaluate(few_steps(teacher, 2), teacher=teacher, n=16, seed=seed)
        return [r["metrics"] for r in found["rows"]]

    assert figures(3) == figures(3) != figures(4)


def test_features_and_scores_of_ones_own():
    def halves(x):
        return x[:, :1] / 2

    teacher = points()
    found = stillhouse.evaluate(few_steps(teacher, 2), HeldOut(features=halves), teacher=teacher, n=16)
    assert found["world"]["features"] == "halves" and "Features are those of halves." in found["notes"]


def test_distribution_of_very_few_has_no_neighbours():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert set(distribution(x, x)) == {"frechet", "kid"}
    assert set(distribution(x.repeat(3, 1), x.repeat(3, 1))) > {"recall", "precision"}


def test_large_pictures_are_kept_no_larger_than_a_page_needs():
    kept = shown(torch.linspace(-1, 1, 512 * 300).reshape(1, 1, 512, 300).repeat(2, 3, 1, 1))
    assert kept.shape == (2, 3, 256, 150) and kept.dtype == torch.uint8
    assert shown(torch.zeros(2, 4, 3, 8, 8)).shape == (2, 4, 3, 8, 8)
    assert shown(torch.ones(5, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        (HeldOut(), "nothing to compare"),
        (HeldOut(("a cat",), data=torch.zeros(4, 2)), "takes none"),
        (HeldOut(data=torch.zeros(4, 3)), r"shape \(3,\), the samples of \(2,\)"),
        (HeldOut(data="no pictures"), "There is no data"),
        (HeldOut(features="no network", data=torch.zeros(4, 2)), "There is no folder"),
        (HeldOut(data=torch.zeros(1, 2)), "at least 2 samples of data"),
    ],
)
def test_what_can_not_be_measured_gets_a_sentence(held, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        stillhouse.evaluate(few_steps(points(), 2), held, n=8)


def test_a_pipeline_without_prompts_is_refused_before_it_is_sampled(tmp_path):
    teacher = stillhouse.load(build("sd", tmp_path / "base"))
    with pytest.raises(StillhouseError, match="--prompts FILE"):
        stillhouse.evaluate(few_steps(teacher, 1), teacher=teacher, n=8)


def test_broken_samples_are_named():
    student = few_steps(points(), 2)
    student.denoiser.net.layers[0].bias.data.fill_(float("nan"))
    with pytest.raises(StillhouseError, match="samples of the student in 2 step.* not finite"):
        stillhouse.evaluate(student, HeldOut(data=torch.randn(8, 2)), n=8)


def test_the_prompts_that_a_run_held_out_are_found(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"a picture of {i} cats" for i in range(200)))
    held, out = prompts_of_run(tmp_path / "run", str(file), points())
    assert out and 0 < len(held) < 20 and all(p in file.read_text() for p in held)
    assert prompts_of_run(tmp_path / "run", "none", points()) == ([], False)
    file.write_text("a cat\n")
    assert prompts_of_run(tmp_path / "run", str(file), points()) == (["a cat"], False)
