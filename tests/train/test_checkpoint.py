"""Checkpoints appear whole or not at all, and nothing that goes wrong with a new one harms the old ones."""

import os
import resource

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.train import checkpoint
from stillhouse.train.player import Player
from stillhouse.train.recipe import Optim


def tensors(seed=0, size=1000):
    return {
        "weights": {"a/w": torch.randn(size, generator=torch.Generator().manual_seed(seed))},
        "optimisers": {"b": torch.arange(3.0)},
    }


def write(folder, step, seed=0, keep=9):
    return checkpoint.write(folder, step, tensors(seed), {"stage": step % 2}, keep)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_round_trip_and_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        write(tmp_path, step, seed=step, keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000010"]
    state, files = checkpoint.newest(tmp_path)
    assert state["step"] == 10 and state["stage"] == 0
    assert torch.equal(files["weights"]["a/w"], tensors(10)["weights"]["a/w"]) and torch.equal(
        files["optimisers"]["b"], torch.arange(3.0)
    )


def cut(file):
    with open(file, "r+b") as f:
        f.truncate(50)


def flip(file):
    with open(file, "r+b") as f:
        f.seek(-3, 2)
        byte = f.read(1)
        f.seek(-3, 2)
        f.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimisers.safetensors", "state.json"])
@pytest.mark.parametrize("harm", [cut, flip, os.remove])
def test_a_torn_one_is_passed_over_with_a_message(tmp_path, caplog, name, harm):
    write(tmp_path, 1)
    torn = write(tmp_path, 2)
    harm(torn / name)
    if (
        harm is flip and name == "state.json"
    ):  # a digit of a digest: then the file it belongs to is the one that differs
        assert (torn / name).read_bytes() != (tmp_path / "step-00000001" / name).read_bytes()
    state, _ = checkpoint.newest(tmp_path)
    assert state["step"] == 1
    assert "torn" in caplog.text and str(torn) in caplog.text and "Passed over" in caplog.text
    with pytest.raises(StillhouseError, match="torn"):
        checkpoint.read(torn)


def test_none_whole_is_none(tmp_path):
    assert checkpoint.newest(tmp_path / "nowhere") is None
    cut(write(tmp_path, 1) / "weights.safetensors")
    assert checkpoint.newest(tmp_path) is None


def test_a_half_written_folder_of_a_killed_run_is_neither_read_nor_in_the_way(tmp_path):
    write(tmp_path, 1)
    left = tmp_path / ".step-00000002.tmp"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path)[0]["step"] == 1
    write(tmp_path, 2)
    assert (
        names(tmp_path) == ["step-00000001", "step-00000002"] and checkpoint.newest(tmp_path)[0]["step"] == 2
    )


def full(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace", "rename", "mkdir"])
def test_a_full_disk_is_said_and_the_old_ones_stay(tmp_path, monkeypatch, call):
    write(tmp_path, 1, seed=1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StillhouseError, match="No space left on device"):
            write(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-00000001"]
    assert torch.equal(checkpoint.newest(tmp_path)[1]["weights"]["a/w"], tensors(1)["weights"]["a/w"])


def test_a_write_that_the_system_cuts_short_leaves_nothing_behind(tmp_path):
    """The real thing, not a stand-in: the process may write no file above 2,000 bytes."""
    write(tmp_path, 1, keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(StillhouseError, match="[Cc]an't write|could not be written"):
            write(tmp_path, 2, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-00000001"] and checkpoint.newest(tmp_path)[0]["step"] == 1


def test_optimisers_go_on_as_if_never_stopped():
    def stepped(players, steps):
        for k in steps:
            for name, player in players.items():
                for p in player.parameters:
                    p.grad = torch.full_like(p, 0.1 * (k + 1) + len(name))
                player.optimiser.step()

    def fresh():
        torch.manual_seed(0)
        return {
            n: Player(n, torch.nn.Linear(2, 2), Optim(name=o))
            for n, o in (("student", "adam"), ("fake", "radam"), ("critic", "sgd"))
        }

    whole, first, second = fresh(), fresh(), fresh()
    stepped(whole, range(5))
    stepped(first, range(3))
    modules = [{n: p.module for n, p in players.items()} for players in (first, second)]
    checkpoint.restore_weights(modules[1], checkpoint.weights_of(modules[0]))
    checkpoint.restore_optimisers(second, *checkpoint.optimisers_of(first))
    for players in (first, second):
        stepped(players, (3, 4))
        for name, player in players.items():
            assert all(
                torch.equal(a, b) for a, b in zip(player.parameters, whole[name].parameters, strict=True)
            )


def test_weights_of_another_run_are_refused():
    saved = checkpoint.weights_of({"student": torch.nn.Linear(2, 2)})
    with pytest.raises(StillhouseError, match="student.*does not fit"):
        checkpoint.restore_weights({"student": torch.nn.Linear(3, 2)}, saved)
