"""Images with captions are read from where users keep them; what is broken is named and passed over."""

import io
import json
import logging
import socket

import pytest
from PIL import Image

from stillhouse.core.errors import StillhouseError
from stillhouse.io.data import open_source


def captions(source):
    return {name: caption for name, image, caption in source if image is not None}


def test_a_folder_with_captions_in_text_files(folder):
    place = folder(3)
    (place / "002.txt").unlink()
    (place / ".hidden.png").write_bytes(b"")
    source = open_source(place)
    rows = list(source)
    assert [name for name, _, _ in rows] == ["000.png", "001.png", "002.png"] and source.count == 3
    assert [caption for _, _, caption in rows] == ["a red picture", "a green picture", None]
    assert rows[1][1].convert("RGB").getpixel((3, 3)) == (0, 128, 0)


def test_broken_and_missing_images_are_named_once_and_skipped(folder, caplog, bytes_of):
    place = folder(2, captions=False)
    (place / "text.png").write_bytes(b"this is no picture")
    noise = Image.effect_noise((64, 64), 80)
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    (place / "torn.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (place / "chunk.png").write_bytes(bytes_of(1)[:40])
    lines = [
        {"file_name": n, "text": n} for n in ("000.png", "gone.png", "text.png", "torn.jpg", "chunk.png")
    ]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    with caplog.at_level(logging.WARNING, "stillhouse"):
        source = open_source(place)
        assert captions(source) == captions(source) == {"000.png": "000.png"}
    assert list(source.skipped) == ["gone.png", "text.png", "torn.jpg", "chunk.png"]
    assert source.skipped["gone.png"] == "it is missing" and source.skipped["text.png"] == "it is no image"
    assert source.skipped["torn.jpg"].startswith("it is broken (")
    told = [r.getMessage() for r in caplog.records]
    assert len([m for m in told if m.startswith("Skipped")]) == 3
    assert source.contents.left_out == {
        "picture(s) that metadata.jsonl lists and that are missing": ["gone.png"],
        "picture(s) that metadata.jsonl does not list": ["001.png"],
    }
    assert [m.split("(s)")[0] for m in told if m.startswith("left out")] == [
        f"left out of '{place}': 1 picture"
    ] * 2


def test_metadata_as_a_table_with_captions_and_labels(folder):
    place = folder(3, captions=False)
    (place / "metadata.csv").write_text('file_name,prompt,label\n002.png,"a blue, plain one",7\n000.png,,\n')
    source = open_source(place)
    assert [(r.name, r.caption, r.label) for r in source.rows()] == [
        ("002.png", "a blue, plain one", 7),
        ("000.png", None, None),
    ]
    (place / "metadata.csv").write_text("name,text\n002.png,x\n")
    with pytest.raises(StillhouseError, match="has no file_name"):
        open_source(place)


def test_folders_are_classes_by_number_or_by_place(tmp_path, bytes_of):
    for root, names in (("numbers", ["0", "207", "9"]), ("names", ["cat", "dog"])):
        for name in names:
            (tmp_path / root / name).mkdir(parents=True)
            (tmp_path / root / name / "a.png").write_bytes(bytes_of(0))
    assert [r.label for r in open_source(tmp_path / "numbers").rows()] == [0, 207, 9]
    assert [r.label for r in open_source(tmp_path / "names").rows()] == [0, 1]


def test_parquet_files_with_bytes_or_with_paths(tmp_path, bytes_of):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.png").write_bytes(bytes_of(3))
    images = [
        {"bytes": bytes_of(0), "path": "q.png"},
        {"bytes": None, "path": "w.png"},
        {"bytes": b"no", "path": None},
    ]
    parquet.write_table(
        pa.table({"z": [1, 2, 3], "image": images, "text": ["a", "b", "c"], "label": [4, 5, 6]}),
        tmp_path / "data" / "b.parquet",
    )
    parquet.write_table(
        pa.table({"jpg": [bytes_of(1, kind="JPEG"), None], "caption": ["d", None]}),
        tmp_path / "data" / "a[1].parquet",
    )
    source = open_source(tmp_path / "data" / "b.parquet")
    assert captions(source) == {"b.parquet:q.png": "a", "b.parquet:w.png": "b"} and source.skipped == {
        "b.parquet:2": "it is no image"
    }
    assert [r.label for r in source.rows()] == [4, 5, 6]
    (tmp_path / "data" / "w.png").unlink()
    both = open_source(tmp_path / "data")
    assert both.count == 5 and captions(both) == {"a[1].parquet:0": "d", "b.parquet:q.png": "a"}
    assert (
        both.skipped["a[1].parquet:1"] == "it has no image"
        and both.skipped["b.parquet:w.png"] == "it is missing"
    )
    (tmp_path / "data" / "b.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(StillhouseError, match="no whole parquet file"):
        open_source(tmp_path / "data")
    parquet.write_table(pa.table({"z": [1]}), tmp_path / "z.parquet")
    with pytest.raises(StillhouseError, match="no column of images; its columns are z"):
        open_source(tmp_path / "z.parquet")


def test_tar_shards_of_mixed_rows_and_one_that_breaks_off(tmp_path, tarred, bytes_of, monkeypatch):
    def no_network(*args):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    files = {
        "s/0.png": bytes_of(0),
        "s/0.txt": b"zero",
        "s/1.jpg": bytes_of(1, kind="JPEG"),
        "s/2.jpg": b"broken",
        "s/2.txt": b"two",
    }
    files |= {
        "s/3.png": bytes_of(3),
        "s/3.json": json.dumps({"caption": "three", "n": [1]}).encode(),
        "s/3.cls": b"5",
        "s/4.txt": b"alone",
    }
    tarred(tmp_path / "a.tar", files)
    whole = tarred(tmp_path / "b.tar", {f"{i}.png": bytes_of(i) for i in range(3)}).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: 512 + 512 + 512 + 60])
    source = open_source(tmp_path)
    assert captions(source) == {"a.tar:s/0": "zero", "a.tar:s/1": None, "a.tar:s/3": "three"} | {
        "b.tar:0": None
    }
    assert source.skipped["a.tar:s/2"] == "it is no image"
    assert source.contents.left_out == {
        "row(s) of tar shards without an image": ["a.tar:s/4"],
        "tar shard(s) from where they break off": ["b.tar"],
    }
    assert source.skipped["b.tar"].startswith("the shard breaks off")
    assert {r.name: r.label for r in source.rows()}["a.tar:s/3"] == 5


def test_nothing_usable_is_one_clear_sentence(tmp_path, folder):
    with pytest.raises(StillhouseError, match="There is no data at"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StillhouseError, match="holds no usable image: neither"):
        open_source(tmp_path / "empty")
    place = folder(1, captions=False)
    (place / "000.png").write_bytes(b"")
    with pytest.raises(StillhouseError, match="holds no usable image .the first, '000.png': it is no image"):
        list(open_source(place))


def test_the_fingerprint_follows_what_matters(folder, tmp_path):
    place = folder(3)
    before = open_source(place).fingerprint
    (place / "000.png").touch()
    assert open_source(place).fingerprint == before
    (place / "000.txt").write_text("a rad picture\n")
    changed = open_source(place).fingerprint
    (place / "002.png").unlink()
    assert len({before, changed, open_source(place).fingerprint}) == 3
