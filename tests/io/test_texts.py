"""Texts in and out."""

import pytest
import torch

from stillhouse.core.errors import StillhouseError
from stillhouse.io.texts import read_text, save_texts, token_rows
from stillhouse.models.letters import Letters


def test_samples_are_lines(tmp_path):
    path = save_texts(tmp_path / "new" / "samples.txt", ["one\ntwo", "three"])
    assert path.read_text() == "one two\nthree\n"
    with pytest.raises(StillhouseError, match="as .txt, not '.png'"):
        save_texts(tmp_path / "samples.png", ["one"])


def test_prose_becomes_rows_of_tokens(tmp_path):
    (tmp_path / "b.txt").write_text("c_c")
    (tmp_path / "a.txt").write_text("ab\n  ab")
    text = read_text(tmp_path)
    assert text == "ab\n  ab\nc_c"
    rows = token_rows(text, Letters(" abc"), 4)
    assert torch.equal(
        rows, torch.tensor([[1, 2, 0, 1], [2, 0, 3, 0]])
    )  # the c that is left over is left out


def test_what_can_t_be_read_is_said(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(StillhouseError, match="no UTF-8 text"):
        read_text(tmp_path / "latin.txt")
    with pytest.raises(StillhouseError, match="can't be read as text: No such file"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StillhouseError, match="holds no .txt file"):
        read_text(tmp_path / "empty")
    with pytest.raises(StillhouseError, match="has 2 tokens, fewer than one row of 4"):
        token_rows("ab", Letters("ab"), 4)


def test_what_is_held_out_is_not_learnt_from(tmp_path, caplog):
    for name in ("wiki.train.txt", "wiki.valid.txt", "wiki.test.txt"):
        (tmp_path / name).write_text(f"\ufeff{name}")
    assert read_text(tmp_path) == "wiki.train.txt"
    assert any(
        "2 text(s) that are not to be learnt from (wiki.test.txt" in r.getMessage() for r in caplog.records
    )
