"""Files are whole or absent, come back bit for bit, and say in a sentence why they can't be read."""

import errno
import json
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.errors import StillhouseError
from stillhouse.core.guidance import Guided
from stillhouse.core.prediction import EDM, X0, Velocity
from stillhouse.core.schedules import VE, Flow
from stillhouse.io import weights
from stillhouse.io.weights import atomic_write, kind_config, kind_from_config, load_denoiser, save_denoiser
from stillhouse.models import build_model


@pytest.fixture
def denoiser():
    return Denoiser(
        build_model({"name": "mlp", "width": 16, "classes": 3, "two_time": True}),
        VE(sigma_max=40.0),
        EDM(0.4),
        two_time=True,
    )


@pytest.fixture
def saved(denoiser, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_denoiser(path, denoiser, {"loss": 0.25, "by": "test"})
    return path


def test_a_denoiser_comes_back_as_it_was(denoiser, saved):
    again, info = load_denoiser(saved)
    assert info == {"loss": 0.25, "by": "test"}
    assert (
        again.process == denoiser.process and again.kind == EDM(0.4) and again.two_time and not again.training
    )
    g = torch.Generator().manual_seed(1)
    x, t, label = torch.randn(4, 2, generator=g), torch.rand(4, generator=g), torch.tensor([0, 1, 2, -1])
    assert torch.equal(again(x, t, label, s=t / 2).x0, denoiser(x, t, label, s=t / 2).x0)


def test_the_header_says_what_the_file_is(saved):
    with safe_open(saved, "pt") as file:
        about = json.loads(file.metadata()["stillhouse"])
    assert about["model"]["name"] == "mlp" and about["model"]["width"] == 16
    assert about["process"] == {"name": "ve", "sigma_min": 0.002, "sigma_max": 40.0, "rho": 7.0}
    assert about["kind"] == {"name": "edm", "sigma_data": 0.4, "boundary": 0.0} and about["two_time"] is True


def test_half_precision_halves_the_file_and_loads_as_float32(denoiser, saved, tmp_path):
    half = tmp_path / "half.safetensors"
    save_denoiser(half, denoiser, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * saved.stat().st_size
    net = load_denoiser(half)[0].net
    for mine, its in zip(net.parameters(), denoiser.net.parameters(), strict=True):
        assert mine.dtype == torch.float32 and torch.allclose(mine, its, rtol=1e-3, atol=1e-6)


def test_every_kind_is_named():
    assert kind_config(Velocity()) == {"name": "velocity"}
    assert kind_from_config(kind_config(EDM(0.7, 0.002))) == EDM(0.7, 0.002)
    with pytest.raises(StillhouseError, match="no prediction kind 'velocty'; did you mean 'velocity'"):
        kind_from_config({"name": "velocty"})
    with pytest.raises(StillhouseError, match="'edm' can't be made from"):
        kind_from_config({"name": "edm", "sigma": 1})

    class Odd(X0):
        pass

    with pytest.raises(StillhouseError, match="Odd has no name"):
        kind_config(Odd())


def test_wrappers_and_our_networks_called_otherwise_are_not_saved(denoiser, tmp_path):
    for model, sentence in (
        (Guided(denoiser, 2.0), "A Guided can't be saved"),
        (Denoiser(denoiser.net, Flow(), call=lambda net, x, t, c: net(x, t)), "in a way of your own"),
    ):
        with pytest.raises(StillhouseError, match=sentence):
            save_denoiser(tmp_path / "no.safetensors", model)
    with pytest.raises(StillhouseError, match="not plain data"):
        save_denoiser(tmp_path / "no.safetensors", denoiser, {"x": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


def refusal(path):
    with pytest.raises(StillhouseError) as error:
        load_denoiser(path)
    sentence = str(error.value)
    assert path.name in sentence and "\n" not in sentence
    return sentence


def test_missing_torn_and_empty_files(saved, tmp_path):
    assert "no weights file" in refusal(tmp_path / "none.safetensors")
    whole = saved.read_bytes()
    for size in (0, 4, 40, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        assert "no whole safetensors file" in refusal(saved)


def test_pickles_are_refused_by_name_and_by_content(tmp_path):
    net = torch.nn.Linear(2, 2)
    for name, zipped in (("a.pt", True), ("b.safetensors", True), ("c.safetensors", False)):
        torch.save(net.state_dict(), tmp_path / name, _use_new_zipfile_serialization=zipped)
        sentence = refusal(tmp_path / name)
        assert "is a pickle" in sentence and "weights_only=True" in sentence


def test_a_header_length_that_looks_like_a_pickle_is_none(denoiser, tmp_path):
    # 0x0280 bytes of header begin with the first bytes of a pickle of protocol 2
    path = tmp_path / "unlucky.safetensors"
    for pad in range(0, 800, 8):
        save_file({"w": torch.zeros(2)}, path, {"pad": "x" * pad})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert "not our header" in refusal(path)


def test_headers_that_are_missing_or_broken(saved, tmp_path):
    tensors, path = load_file(saved), tmp_path / "odd.safetensors"
    save_file(tensors, path)
    assert "not our header" in refusal(path)
    for header in ("{", "[]", "{}", '{"model": 3}'):
        save_file(tensors, path, {"stillhouse": header})
        assert "can't be read" in refusal(path)


def test_weights_that_do_not_fit(saved):
    tensors = load_file(saved)
    with safe_open(saved, "pt") as file:
        header = file.metadata()
    save_file({**tensors, "input.weight": torch.zeros(3, 2)}, saved, header)
    assert "'input.weight' is (3, 2) there, (16, 2) in the network" in refusal(saved)
    save_file({k: v for k, v in tensors.items() if k != "input.bias"}, saved, header)
    assert "'input.bias' is missing there" in refusal(saved)
    save_file({**tensors, "more": torch.zeros(1)}, saved, header)
    assert "'more' is (1,) there, unknown in the network" in refusal(saved)


def test_weights_that_are_not_finite_are_named(saved, caplog):
    load_denoiser(saved)
    assert not caplog.text
    tensors = load_file(saved)
    with safe_open(saved, "pt") as file:
        header = file.metadata()
    tensors["input.bias"][2] = float("nan")
    save_file(tensors, saved, header)
    load_denoiser(saved)
    assert "holds weights that are not finite, first 'input.bias'" in caplog.text


def test_a_full_disk_leaves_the_old_file_and_nothing_else(denoiser, saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights.os, "fsync", full)
    with pytest.raises(StillhouseError, match="No space left on device"):
        save_denoiser(saved, denoiser, {"new": True})
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    atomic_write(path, b"old")

    def stopped(part):
        part.write_bytes(b"ne")
        raise error

    with pytest.raises(error):
        atomic_write(path, stopped)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_atomic_write_makes_folders_and_refuses_what_it_can_not_write(tmp_path):
    atomic_write(tmp_path / "new" / "deep" / "a.txt", b"text")
    assert (tmp_path / "new" / "deep" / "a.txt").read_bytes() == b"text"
    with pytest.raises(StillhouseError, match="Can't write"):
        atomic_write(tmp_path / "new" / "deep" / "a.txt" / "b.txt", b"text")
    with pytest.raises(StillhouseError, match="Can't write"):
        atomic_write(tmp_path / "new", b"text")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "deep", "new"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"depth": 10**7}, "names a depth of 10,000,000 for"),
        ({"width": 10**7}, "don't fit the network"),
        ({"width": -1}, "can't be built"),
        ({"width": 10**30}, "can't be built"),
        ({"depth": 0.5}, "can't be built"),
        ({"width": "wide"}, "can't be built"),
        ({"depth": [1] * 10**5}, "lists 100,000 depth for"),
    ],
)
def test_a_header_that_lies_of_its_network_costs_nothing(saved, change, sentence):
    tensors = load_file(saved)
    with safe_open(saved, "pt") as file:
        about = json.loads(file.metadata()["stillhouse"])
    about["model"] |= change
    save_file(tensors, saved, {"stillhouse": json.dumps(about)})
    began = time.process_time()
    assert sentence in refusal(saved)
    assert time.process_time() - began < 5  # a network of that size takes minutes, or all memory
