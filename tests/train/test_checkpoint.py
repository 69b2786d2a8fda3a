"""Checkpoints appear whole or not at all, and the newest whole one is found."""

import errno
import logging

import pytest
import torch

from stillhouse.errors import StillhouseError
from stillhouse.train import checkpoint


def files(value):
    return {"weights": {"a": torch.full((3,), float(value))}, "optimisers": {}}


def test_what_is_written_is_read(tmp_path):
    checkpoint.write(tmp_path, 7, files(1), {"stage": 2}, keep=2)
    state, tensors = checkpoint.newest(tmp_path)
    assert state["step"] == 7 and state["stage"] == 2
    assert torch.equal(tensors["weights"]["a"], torch.ones(3))


def test_the_newest_few_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        checkpoint.write(tmp_path, step, files(step), {}, keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000011"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "no state", "no file"])
def test_a_torn_one_is_passed_over_with_a_message(tmp_path, caplog, harm):
    checkpoint.write(tmp_path, 1, files(1), {}, keep=3)
    torn = checkpoint.write(tmp_path, 2, files(2), {}, keep=3)
    blob = torn / "weights.safetensors"
    if harm == "truncate":
        blob.write_bytes(blob.read_bytes()[:-4])
    elif harm == "flip":
        content = bytearray(blob.read_bytes())
        content[-1] ^= 1
        blob.write_bytes(bytes(content))
    elif harm == "no state":
        (torn / "state.json").write_text('{"step": 2')
    else:
        blob.unlink()
    with caplog.at_level(logging.WARNING, "stillhouse"):
        state, _ = checkpoint.newest(tmp_path)
    assert state["step"] == 1 and "step-00000002" in caplog.text and "torn" in caplog.text


def test_a_full_disk_leaves_the_old_one_alone(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, 1, files(1), {}, keep=2)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "atomic_write", full)
    with pytest.raises(StillhouseError, match="step 2 could not be written.*No space left"):
        checkpoint.write(tmp_path, 2, files(2), {}, keep=2)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.newest(tmp_path)[0]["step"] == 1


def test_nothing_to_read_is_none(tmp_path):
    assert checkpoint.newest(tmp_path / "absent") is None
