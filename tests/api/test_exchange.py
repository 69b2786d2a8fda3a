"""A student as ONNX and as torch.export's own file: equal to the model, for any number of rows, or not
written at all."""

import json
from pathlib import Path

import pytest
import torch

from stillhouse.api.exchange import export_policy
from stillhouse.cli import main
from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.io.graph import opened
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.worlds.base import get_world

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def shaken(world, process=None, **options):
    net = world.network(process or Flow(), **options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return net


def policy(steps=1, start=None, task="arena", **options):
    world = get_world("control", task=task)
    samplings = {steps: Sampling([1 - i / steps for i in range(steps)] + [0.0], "renoise", start=start)}
    scales = {"scales": {"action": {"low": [0.0], "high": [1.0]}}}
    return Model(
        shaken(world, **options),
        world.shape,
        0,
        samplings,
        world="control",
        cond_kind="observation",
        info=scales,
    )


def test_a_policy_of_two_calls_becomes_one_graph(tmp_path):
    model = policy(2, task="bandit", width=16, depth=1)
    done = export_policy(model, tmp_path / "policy.onnx")
    assert (
        done.inputs == {"noise": (2, 1, 2), "features": (1,)} and done.calls == 2 and done.difference < 1e-5
    )
    proto = onnx.load(tmp_path / "policy.onnx")
    onnx.checker.check_model(proto)
    assert [i.name for i in proto.graph.input] == ["noise", "features"] and [
        o.name for o in proto.graph.output
    ] == ["sample"]
    about = json.loads({p.key: p.value for p in proto.metadata_props}["stillhouse"])
    assert (
        about["shape"] == [1, 2]
        and about["cond_kind"] == "observation"
        and about["scales"] == model.info["scales"]
    )


def test_a_deterministic_policy_takes_no_noise(tmp_path):
    done = export_policy(policy(1, 0.0, channels=(8, 16)), tmp_path / "policy.pt2")
    assert done.inputs == {"features": (6,)} and done.calls == 1 and done.difference < 1e-5


def test_the_graph_says_what_the_model_says_to_the_same_noise(tmp_path):
    """Apart from the exporter's own check: read back from the file, against the network called by hand."""
    model = policy(channels=(8, 16))
    export_policy(model, tmp_path / "policy.onnx")
    export_policy(model, tmp_path / "policy.pt2")
    for rows in (1, 3, 17):
        draws = Draws(rows, "rows")
        noise, seen = draws.normal(8, 2), draws.normal(6)
        with torch.no_grad():
            expected = noise - model.denoiser.net(
                noise, torch.ones(rows), {"features": seen}
            )  # flow, velocity, from t = 1
        for file, form in (("policy.onnx", "onnx"), ("policy.pt2", "torch")):
            torch.testing.assert_close(
                opened(tmp_path / file, form)(noise, seen), expected, atol=2e-6, rtol=1e-5
            )


def test_images_with_labels(tmp_path):
    world = get_world("digits")
    net = shaken(world, channels=(8, 8), attention=0)
    student = Model(net, world.shape, world.classes, {2: Sampling([1.0, 0.5, 0.0], "ddim")}, world="digits")
    done = export_policy(student, tmp_path / "digits.onnx")
    assert (
        done.inputs == {"noise": tuple(world.shape), "label": ()}
        and done.calls == 2
        and done.difference < 1e-4
    )


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy(task="bandit", width=16, depth=1).save_pretrained("student")
    assert main(["export", "student", "--to", "torch"]) == 0
    shown = capsys.readouterr().out
    written = Path("student.pt2").read_bytes()
    assert main(["export", "student", "--to", "torch"]) == 2 and "already" in capsys.readouterr().err
    assert Path("student.pt2").read_bytes() == written
    assert shown.startswith(
        "student.pt2: noise (rows, 1, 2), features (rows, 1) -> sample, 1 network call(s)"
    )
    run = torch.export.load("student.pt2").module()
    assert run(torch.zeros(3, 1, 2), torch.zeros(3, 1)).shape == (3, 1, 2)
    assert main(["export", "student", "--to", "onnx", "--out", "policy.bin"]) == 2
    assert "is a file *.onnx, not 'policy.bin'" in capsys.readouterr().err


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    import stillhouse.api.exchange as exchange

    model = policy(task="bandit", width=16, depth=1)
    monkeypatch.setattr(
        exchange, "opened", lambda content, form: lambda *given: torch.zeros(len(given[0]), 1, 2)
    )
    with pytest.raises(
        StillhouseError, match=r"differs from the model by .*, more than 0.0001; nothing was written"
    ):
        export_policy(model, tmp_path / "policy.pt2")
    assert not any(tmp_path.iterdir())


def test_what_can_not_be_written_is_told(tmp_path):
    with pytest.raises(StillhouseError, match="no form of an exported graph named '.bin'"):
        export_policy(policy(), tmp_path / "policy.bin")
    world = get_world("control", task="bandit")
    exact = Model(
        world.exact(Flow()), world.shape, 0, {1: Sampling([1.0, 0.0], "ddim")}, cond_kind="observation"
    )
    with pytest.raises(StillhouseError, match="give an example as cond"):
        export_policy(exact, tmp_path / "policy.onnx")
    with pytest.raises(
        StillhouseError, match="Only a network of one's own can be unrolled, not a BanditDenoiser"
    ):
        export_policy(exact, tmp_path / "policy.onnx", cond={"features": torch.zeros(1, 1)})

    class Branches(torch.nn.Module):
        def forward(self, x, t, cond=None):
            return x if bool(x.sum() > 0) else -x

    model = load(Denoiser(Branches(), Flow()), shape=(2,))
    with pytest.raises(StillhouseError, match="can't be written as a graph"):
        export_policy(model, tmp_path / "branches.pt2", steps=1)
    assert not any(tmp_path.iterdir())
