"""The rows of a run outlive whatever ends a process."""

import errno
import os

import pytest

from stillhouse.core.errors import StillhouseError
from stillhouse.train.journal import Journal, read


def test_a_resumed_journal_has_the_old_rows_at_every_moment(tmp_path, monkeypatch):
    journal = Journal(tmp_path, 4, show=False)
    for step in range(3):
        journal.note(step, loss=0.5)
    journal.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # killed while it was written
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def stop(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)  # the last thing that is done
        with pytest.raises(StillhouseError, match="No space left"):
            Journal(tmp_path, 4, 2, show=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    again = Journal(tmp_path, 4, 2, show=False)
    again.note(2, loss=0.25)
    again.close()
    assert [(row["step"], row["loss"]) for row in read(tmp_path / "metrics.jsonl")] == [
        (0, 0.5),
        (1, 0.5),
        (2, 0.25),
    ]
