"""What is offered for a model runs on it, and what does not run is refused before anything is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from stillhouse.api.offers import offers
from stillhouse.api.resolve import untrained
from stillhouse.cli import main
from stillhouse.core.errors import StillhouseError
from stillhouse.io.pipelines.tiny import build
from stillhouse.opening import load
from stillhouse.systems.registry import class_of, list_systems
from stillhouse.train.data import TensorData
from stillhouse.train.dry_run import dry_run, ghost
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world


class Own(nn.Module):
    """A module of the user's own, with labels and a null class."""

    def __init__(self):
        super().__init__()
        self.label, self.inside, self.out = nn.Embedding(5, 4), nn.Linear(7, 8), nn.Linear(8, 2)

    def forward(self, x, t, cond):
        return self.out(torch.tanh(self.inside(torch.cat([x, t[:, None], self.label(cond)], 1))))


def own():
    return load(Own(), shape=(2,), classes=4, empty=torch.tensor([4]))


SMALL = {"pairs": 16, "pair_steps": 2}  # of a bank
METHODS = [row.slug for row in list_systems(kind="method") if "teacher" in row.needs]


@pytest.mark.parametrize("slug", METHODS)
def test_a_method_runs_on_a_module_of_ones_own_if_and_only_if_it_is_offered(slug):
    teacher = own()
    found = {offer.slug: offer for offer in OFFERED}
    data = TensorData(torch.randn(16, 2), torch.arange(16) % 4, 4)
    recipe = Recipe(steps=64, batch=4, ema=0.0)
    fields = {f.name for f in dataclasses.fields(class_of(slug))}
    options = found[slug].options if slug in found else {}
    options = {k: v for k, v in SMALL.items() if k in fields} | options

    def begun():
        trainer = Trainer(class_of(slug)(**options), teacher, data, recipe, quiet=True)
        trainer.prepare()
        for step in range(2):
            trainer.iterate(step)
        return trainer

    if slug in found:
        assert begun().product().sample(2).shape == (2, 2)
    else:
        with pytest.raises(StillhouseError):
            begun()


OFFERED = offers(own())


def test_an_offer_names_the_option_that_it_needs():
    phrases = [offer.phrase for offer in OFFERED]
    assert "dmd2 (gan_weight=0)" in phrases and "progressive" in phrases and "sid" in phrases
    assert not {"cfd", "sdtt", "ibmd", "tad_sr", "causvid", "livetalk", "ctm", "msd"} & {
        o.slug for o in OFFERED
    }
    assert {o.slug: o.needs for o in OFFERED}["progressive"] == ("teacher", "data")


def test_bridges_tokens_and_scenes_have_systems_of_their_own():
    world = get_world("mixture", bridge="told")
    bridge = untrained(world, None, {"width": 8, "depth": 1}, {"name": "brownian"}, "x0", 0)
    assert {offer.slug for offer in offers(bridge)} >= {"ibmd"}
    slugs = {offer.slug for offer in offers(load("text"))}
    assert "sdtt" in slugs and not {"dmd2", "cm", "ibmd"} & slugs
    assert "cfd" in {offer.slug for offer in offers(load("objects"))}


def test_a_dry_run_touches_neither_the_teacher_nor_the_random_numbers():
    teacher = own()
    before, state = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}, torch.get_rng_state()
    method = class_of("dmd2")(gan_weight=0.0)
    dry_run(method, teacher, Recipe(), True)
    assert all(torch.equal(v, before[k]) for k, v in teacher.denoiser.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and not hasattr(method, "teacher")
    assert all(p.requires_grad for p in teacher.denoiser.parameters())
    assert {p.device.type for p in ghost(teacher.denoiser).parameters()} == {"meta"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return build("sd", tmp_path_factory.mktemp("offers") / "sd")


@pytest.mark.parametrize(
    ("slug", "sentence"),
    [
        ("cfd", "CFD is for models of the form scene or points; this one makes samples of the form image."),
        ("sdtt", "SDTT is for models of tokens, not of a Gaussian process."),
        ("causvid", "CausVid is for models of the form video"),
        ("ctm", "can't be rebuilt with other inputs"),
        ("msd", "Students of a Diffusers pipeline can't be joined"),
    ],
)
def test_a_refusal_comes_before_anything_is_encoded(slug, sentence, pipeline, tmp_path, monkeypatch, capsys):
    (tmp_path / "prompts.txt").write_text("a circle\na square\n")

    def read(*_, **__):
        raise AssertionError("the data was read")

    monkeypatch.setattr("stillhouse.train.cached.data_for", read)
    words = ["--teacher", str(pipeline), "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["distill", slug, *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_inspect_and_the_help_of_distill_offer_the_same(pipeline, capsys):
    assert main(["inspect", str(pipeline), "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert {"lcm", "dmd2", "progressive", "icd"} <= set(methods)
    assert not {"cfd", "ctm", "slimflow", "sdtt", "causvid", "ibmd", "tad_sr", "livetalk", "msd"} & set(
        methods
    )
    assert main(["distill", "--teacher", str(pipeline), "--help"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "thesecanrun:" + "".join(", ".join(methods).split()) + "." in shown


def test_inspect_describes_a_module_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Bilinear(2, 1, 2), "
        "{'shape': (2,), 'call': lambda net, x, t, c: net(x, t[:, None])}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "net.py:make"]) == 0
    out = capsys.readouterr().out
    assert "Bilinear, made by net.py:make, 6 parameters" in out and "dmd2 (gan_weight=0)" in out
    assert (
        Path("net.py").is_file()
        and main(["inspect", "mixture"]) == 0
        and "classes    8" in capsys.readouterr().out
    )
