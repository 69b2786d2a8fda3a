"""``stillhouse inspect DATA`` prints what training would read, and trains nothing."""

import json

from PIL import Image

from stillhouse.cli import main


def inspected(capsys, *words):
    assert main(["inspect", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_a_folder_of_pictures(tmp_path, capsys):
    for split, n in (("train", 3), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(n):
            Image.new("RGB", (8, 8)).save(tmp_path / split / f"{i}.png")
            (tmp_path / split / f"{i}.txt").write_text("words")
    (tmp_path / "notes.md").write_text("x")
    lines = inspected(capsys, tmp_path).splitlines()
    assert lines == [
        f"'{tmp_path}': 5 picture(s) in files (5 png)",
        "  train: 3 picture(s), 3 caption(s)",
        "  test: 2 picture(s), 2 caption(s); held out",
        f"left out of '{tmp_path}': 1 .md file(s), which are not read (notes.md)",
    ]
    about = json.loads(inspected(capsys, tmp_path, "--json"))
    assert about["splits"]["test"] == {"pictures": 2, "rows": 2, "captions": 2, "labels": 0}
    assert about["used"] == ["train", "test"] and list(about["left_out"].values()) == [["notes.md"]]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["notes.md", "test", "train"]


def test_prompts_and_texts(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\nb\nb\nc\nd\n")
    assert "5 prompt(s), 4 different;" in inspected(capsys, prompts)
    about = json.loads(inspected(capsys, prompts, "--json"))
    assert about["prompts"] == about["learnt"] + about["held_out"] == 5 and about["held_out"] > 0
    assert "1 text(s) of 10 characters" in inspected(capsys, tmp_path)
    (tmp_path / "texts").mkdir()
    for name in ("train", "valid", "test"):
        (tmp_path / "texts" / f"wiki.{name}.txt").write_text(name)
    assert "1 text(s) of 5 characters, for language models; 2 held out" in inspected(
        capsys, tmp_path / "texts"
    )


def test_what_is_neither_is_one_sentence(tmp_path, capsys):
    (tmp_path / "x.bin").write_text("x")
    assert main(["inspect", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
