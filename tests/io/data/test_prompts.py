"""Prompts from files, and which of them are held out."""

import pytest

from stillhouse.core.errors import StillhouseError
from stillhouse.io.data import read_prompts, split_prompts


def test_prompts_of_every_kind_of_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa red circle\n\n# not this\n  a blue  square \n".encode())
    (tmp_path / "b.jsonl").write_text('{"prompt": "one"}\n\n{"text": "two", "n": 1}\n{"text": ""}\n')
    (tmp_path / "c.csv").write_text('id,caption\n1,"one, two"\n2,"three\nfour"\n')
    assert read_prompts(tmp_path / "a.txt") == ["a red circle", "a blue  square"]
    assert read_prompts(tmp_path / "b.jsonl") == ["one", "two"] and read_prompts(tmp_path / "c.csv") == [
        "one, two",
        "three four",
    ]


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.txt", b"", "holds none"),
        ("a.txt", b"\n# only words\n", "holds none"),
        ("a.txt", b"caf\xe9", "no text in UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "Line 2 .* no JSON"),
        ("a.jsonl", b"[1]", "Line 1 .* a table of names and values, not .1."),
        ("a.csv", b"id,words\n1,2\n", "no column text, caption or prompt"),
        ("a.csv", b"text\n", "holds none"),
        ("a.yaml", b"a: b", "are read from .txt, .jsonl, .csv"),
    ],
)
def test_what_holds_no_prompts_is_refused_by_name(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StillhouseError, match=sentence) as error:
        read_prompts(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    with pytest.raises(StillhouseError, match="There is no file of prompts"):
        read_prompts(tmp_path / "nothing.txt")


def test_a_share_is_held_out_for_good():
    prompts = [f"prompt {i}" for i in range(2000)] + ["prompt 3"]
    mine, held = split_prompts(prompts, 0.1)
    assert len(mine) + len(held) == 2001 and not set(mine) & set(held) and 150 < len(held) < 250
    more, held_of_more = split_prompts([*prompts, *(f"more {i}" for i in range(500))], 0.1)
    assert set(held) <= set(held_of_more) and set(mine) <= set(more)
    assert set(split_prompts(prompts, 0.1, seed=1)[1]) != set(held)
    assert [len(part) for part in split_prompts(["a", "b"], 1e-9)] == [1, 1] and split_prompts(
        ["a", "a"], 0.5
    ) == (["a", "a"], [])
    assert split_prompts(prompts, 0.0) == (prompts, [])
    with pytest.raises(StillhouseError, match="not 1.0"):
        split_prompts(prompts, 1.0)
    with pytest.raises(StillhouseError, match="no prompts"):
        split_prompts([])


def test_lines_and_separators_are_those_of_the_format(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\u2028two\r\nthree\x0bfour\rfive".encode())
    assert read_prompts(tmp_path / "a.txt") == ["one\u2028two", "three\x0bfour", "five"]
    (tmp_path / "b.jsonl").write_text('{"text": "one\u2028two"}\n{"text": ["x", "y"]}\n{"text": NaN}\n')
    assert read_prompts(tmp_path / "b.jsonl") == ["one two", "x", "y"]
    (tmp_path / "c.csv").write_text('id, Text\n1, a cat, a dog\n2, "b, c"\n')
    assert read_prompts(tmp_path / "c.csv") == ["a cat, a dog", "b, c"]
    (tmp_path / "d.csv").write_text("text\na cat, a dog\n")
    assert read_prompts(tmp_path / "d.csv") == ["a cat, a dog"]
