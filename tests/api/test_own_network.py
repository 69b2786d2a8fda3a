"""A module of the user's own, the whole way: trained, saved, opened by its code, distilled, sampled,
resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import stillhouse
from stillhouse.cli import main
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.prediction import X0
from stillhouse.core.schedules import Flow
from stillhouse.opening import load
from stillhouse.train.data import TensorData

CODE = '''
"""A network of the user's own, and how it is called."""

import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.freqs = torch.randn(4)  # registered nowhere, and another one in each network
        self.inside = nn.Linear(10, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, sample, timestep):
        angle = timestep[:, None] * self.freqs
        return self.out(torch.cat([sample, angle.sin(), angle.cos()], 1) @ self.inside.weight.T)


def call(net, x, t, cond, **extra):
    return net(x, t)


def make_net():
    return Mine(), {"shape": (2,), "call": call}


def make_teacher():
    torch.manual_seed(0)
    return make_net()


def make_data():
    return torch.randn(64, 2, generator=torch.Generator().manual_seed(1))


def make_nothing():
    return {"shape": 2}


def fails():
    return Mine()(1)
'''
TEACHER, NET, DATA = "net.py:make_teacher", "net.py:make_net", "net.py:make_data"
RUN = ["--iterations", "4", "--batch", "8", "--quiet"]
FEW = {"iterations": 4, "batch": 8, "quiet": True}


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with the user's file."""
    (tmp_path / "net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "Traceback" not in err, err
    return err


def test_from_the_command_line_all_the_way(work, capsys):
    assert main(["train", "--network", NET, "--data", DATA, *RUN, "--out", "first"]) == 0
    assert "stillhouse sample first --network net.py:make_net" in capsys.readouterr().out
    taught = ["--teacher", "first", "--network", NET, "--data", DATA]
    options = ["--teacher-steps", "4", "--save-every", "2", "--keep-checkpoints", "9"]
    assert main(["distill", "progressive", *taught, *RUN, *options, "--out", "run"]) == 0
    assert main(["sample", "run", "--network", NET, "-n", "4", "--out", "a.safetensors"]) == 0
    with safe_open("run/model/model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["stillhouse"])
        names = {n for n in file.keys() if ":" not in n}  # noqa: SIM118
    assert about["own"] == {"class": "Mine", "code": NET, "call": "own"} and "freqs" not in names
    assert {"inside.weight", "out.bias"} <= names  # under the names that the user's class has
    student = load("run/model", network=NET)
    assert torch.equal(student.sample(4), load("run/model", network=NET).sample(4))
    # resumed from the middle, the same to the bit; its code has to be named again
    shutil.copytree("run", "again")
    shutil.rmtree("again/model")
    shutil.rmtree("again/checkpoints/step-00000004")
    resumed = ["distill", "progressive", "--resume", "again", "--quiet"]
    assert f"stillhouse distill --resume again --network {NET} --data {DATA}" in refused(capsys, *resumed)
    assert main([*resumed, "--network", NET, "--data", DATA]) == 0
    assert (
        Path("again/model/model.safetensors").read_bytes() == Path("run/model/model.safetensors").read_bytes()
    )


def test_a_folder_never_runs_the_code_that_it_names(work, capsys):
    four = ["--teacher-steps", "4"]
    assert (
        main(["distill", "progressive", "--teacher", TEACHER, "--data", DATA, *four, *RUN, "--out", "run"])
        == 0
    )
    (work / "net.py").write_text("open('ran', 'w')\n" + CODE)
    for words in (
        ["sample", "run"],
        ["evaluate", "run", "--world", "mixture"],
        ["distill", "progressive", "--resume", "run"],
    ):
        assert "net.py:make_teacher" in refused(capsys, *words) and not Path("ran").exists()
    with pytest.raises(
        StillhouseError,
        match=r"a network of your own; name its code: --network "
        r"net\.py:make_teacher",
    ):
        load("run/model")
    with pytest.raises(StillhouseError, match="runs only where you name it"):
        stillhouse.api.models.open_model(TEACHER)
    assert not Path("ran").exists()
    assert main(["sample", "run", "--network", TEACHER, "-n", "2"]) == 0 and Path("ran").exists()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("net.py:make_nothing", "'net.py:make_nothing' gives a dict, and is to give a Model"),
        ("net.py:gone", "There is no gone in 'net.py'."),
        ("gone.py:make", "There is no file 'gone.py' to take make from."),
        ("net.py", "Code is named as FILE.py:FUNCTION"),
        ("net.py:fails", "'net.py:fails' fails: TypeError: "),
    ],
)
def test_code_that_gives_no_model_is_one_sentence(work, capsys, code, sentence):
    assert sentence in refused(
        capsys, "distill", "progressive", "--teacher", code, "--data", DATA, "--out", "run"
    )
    assert not Path("run").exists()


def test_a_teacher_of_other_weights_is_no_teacher_to_resume_with(work):
    """The function must make the same network each time; this one draws it anew."""
    options = {"teacher_steps": 4, "out": "run", "save_every": 2, **FEW}
    stillhouse.distill(NET, "progressive", data=DATA, **options)
    with pytest.raises(StillhouseError, match="other weights than the one given now"):
        stillhouse.distill(NET, "progressive", data=DATA, resume=True, **options)


def test_a_checkpoint_keeps_tensors_that_torch_does_not(work):
    """A fresh network of other frequencies goes on with those of the run."""
    whole = stillhouse.train_model(network=NET, data=DATA, out="run", save_every=2, **FEW)
    shutil.rmtree("run/model")
    shutil.rmtree("run/checkpoints/step-00000004")
    resumed = stillhouse.train_model(network=NET, data=DATA, out="run", save_every=2, resume=True, **FEW)
    assert torch.equal(whole.sample(4), resumed.sample(4))


# -- forms of condition -----------------------------------------------------------------------------
class Conditioned(nn.Module):
    """Takes a tensor, a dict or a label, as ``form`` has it."""

    def __init__(self, form: str):
        super().__init__()
        self.form = form
        self.label = nn.Embedding(4, 3)
        self.layers = nn.Linear(6, 2)

    def forward(self, x, t, cond):
        if self.form == "none":
            made = x.new_zeros(len(x), 3)
        elif self.form == "label":
            made = self.label(cond)
        else:
            made = cond["height"] if self.form == "dict" else cond
        return self.layers(torch.cat([x, t[:, None], made], 1))


def rows(form: str, n: int):
    generator = torch.Generator().manual_seed(2)
    return {
        "none": None,
        "label": torch.arange(n) % 3,
        "tensor": torch.randn(n, 3, generator=generator),
        "dict": {"height": torch.randn(n, 3, generator=generator)},
    }[form]


@pytest.mark.parametrize("form", ["none", "label", "tensor", "dict"])
def test_conditions_of_every_form_go_all_the_way(form, tmp_path):
    net = Conditioned(form)
    teacher = load(net, shape=(2,), empty=torch.tensor([3]) if form == "label" else None)
    cond = rows(form, 48)
    student = stillhouse.distill(
        teacher, "progressive", data=(torch.randn(48, 2), cond), teacher_steps=4, out=tmp_path / "run", **FEW
    )
    again = load(tmp_path / "run/model", network=Conditioned(form))
    assert torch.equal(student.sample(5, seed=3), again.sample(5, seed=3))  # under conditions of its data
    assert again.classes == (3 if form == "label" else 0) and again.conditional == (form != "none")
    given = rows(form, 5)
    assert torch.equal(student.sample(5, given), again.sample(5, given))
    guided = [m.sample(5, given, guidance=2.0) for m in (student, again) if form == "label"]
    assert all(torch.equal(x, guided[0]) for x in guided)  # the null class is in the file


def test_examples_alone_are_enough_for_a_run_without_data(tmp_path):
    teacher = load(Conditioned("dict"), shape=(2,), examples=rows("dict", 6))
    student = stillhouse.distill(teacher, "sid", **FEW)
    assert student.sample(3).shape == (3, 2)


# -- networks that torch itself saves only in part, or not at all -------------------------------------
class Tied(nn.Module):
    """Two names of one weight, a view of another, a buffer that is kept out of the state."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(3, 2)
        whole = torch.randn(2, 2)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[:1])
        self.register_buffer("scale", torch.randn(1), persistent=False)

    def forward(self, x, t, cond=None):
        h = self.second(torch.tanh(self.first(torch.cat([x, t[:, None]], 1))))
        return self.last(h) * self.scale + self.part + self.whole.mean()


def test_tied_shared_and_unregistered_tensors_come_back(tmp_path):
    model = load(Tied(), shape=(2,))
    model.save_pretrained(tmp_path / "m")
    again = load(tmp_path / "m", network=Tied)
    assert torch.equal(model.sample(4), again.sample(4))
    net = again.denoiser.net
    assert net.first.weight is net.second.weight
    with safe_open(tmp_path / "m/model.safetensors", "pt") as file:
        assert "second.weight" not in file.keys()  # noqa: SIM118
    kept = Tied()
    before = kept.last.weight.clone()
    load(tmp_path / "m", network=kept)
    assert torch.equal(kept.last.weight, before)  # what the caller holds stays as it is


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = [nn.Linear(3, 2)]


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (nn.Linear(3, 2, device="meta"), "'weight' of Linear is on the meta device"),
        (nn.LazyLinear(2), "'weight' of LazyLinear has no shape yet"),
        (Extra(3, 2), "'_extra_state' in the state of Extra is a dict"),
        (Listed(), "'blocks' of Listed is a plain list of modules"),
    ],
)
def test_what_could_not_be_saved_is_refused_when_it_is_loaded(net, sentence):
    with pytest.raises(StillhouseError, match=sentence):
        load(net, shape=(2,))


def test_nothing_that_cannot_be_saved_starts_to_train(tmp_path):
    class Other(X0):
        """A kind of the user's own."""

    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.hook = nn.Linear(3, 2), (i for i in ())

        def forward(self, x, t, cond=None):
            return self.layers(torch.cat([x, t[:, None]], 1))

    data = TensorData(torch.randn(16, 2))
    kind = Denoiser(nn.Bilinear(2, 1, 2), Flow(), Other(), call=lambda net, x, t, c: net(x, t[:, None]))
    pairs = ((kind, "of type Other has no name"), (Held(), "Held can't be copied"))
    for one, sentence in ((load(module, shape=(2,)), sentence) for module, sentence in pairs):
        with pytest.raises(StillhouseError, match=sentence):
            stillhouse.distill(one, "progressive", data=data, teacher_steps=4, out=tmp_path / "run", **FEW)
        assert not (tmp_path / "run").exists()


def test_wrappers_of_torch_leave_no_trace_in_the_names(tmp_path):
    net = Tied()
    load(nn.DataParallel(net), shape=(2,)).save_pretrained(tmp_path / "m")
    assert torch.equal(load(tmp_path / "m", network=net).sample(2), load(net, shape=(2,)).sample(2))


def test_a_network_with_a_configuration_of_its_own_is_no_network_of_ours(tmp_path):
    """Many have a dict named ``config``."""
    net = Tied()
    net.config = {"hidden": 3}
    load(net, shape=(2,)).save_pretrained(tmp_path / "m")
    assert torch.equal(load(tmp_path / "m", network=Tied).sample(2), load(net, shape=(2,)).sample(2))


def test_weights_that_do_not_fit_the_code_are_named(tmp_path):
    load(Tied(), shape=(2,)).save_pretrained(tmp_path / "m")
    with pytest.raises(StillhouseError, match="don't fit the network: 'weight' is missing there"):
        load(tmp_path / "m", network=nn.Linear(3, 2))
    with pytest.raises(StillhouseError, match="holds no network of your own"):
        load("mixture", network=Tied)


# -- adapters -----------------------------------------------------------------------------------------
class Attending(nn.Module):
    """torch's own encoder layer, whose fast path reads weights past their adapters, and a tied table."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(2, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 2)
        self.table, self.read = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)
        self.read.weight = self.table.weight

    def forward(self, x, t, cond=None):
        h = self.inside(x)[:, None] + self.table(torch.zeros(1, dtype=torch.long)) * t[:, None, None]
        return self.out(self.read(self.block(h))[:, 0])


def test_a_student_that_is_an_adapter_on_ones_own_module(tmp_path):
    torch.manual_seed(0)
    net = Attending()
    base = {k: v.clone() for k, v in net.state_dict().items()}
    data = TensorData(torch.randn(32, 2, generator=torch.Generator().manual_seed(1)))
    student = stillhouse.distill(
        load(net, shape=(2,)), "progressive", data=data, teacher_steps=4, lora=2, lr={"student": 0.05}, **FEW
    )
    student.save_pretrained(tmp_path / "m")
    again = load(tmp_path / "m", network=Attending)
    assert torch.allclose(student.sample(6), again.sample(6), atol=1e-5)
    saved = again.denoiser.net
    assert torch.equal(saved.table.weight, base["table.weight"]) and saved.read.weight is saved.table.weight
    layer = saved.block.linear1.weight
    assert not torch.equal(layer, base["block.linear1.weight"])
