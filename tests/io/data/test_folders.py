"""Data sets as people have them: the whole folder decides what is read, and what isn't read is named."""

import json
import logging
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.core.errors import StillhouseError
from stillhouse.io.data import encode_source, open_source, to_tensor
from stillhouse.io.data.prepare import upright
from stillhouse.train.cached import CachedData

SIZE = (16, 16)


def put(root: Path, *names: str, content: bytes) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def table(path: Path, **columns) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path


def by_name(source, what="caption"):
    return {row.name: getattr(row, what) for row in source.rows()}


def left(source):
    return {name for names in source.contents.left_out.values() for name in names}


def test_a_stray_picture_hides_neither_parquet_nor_tars(tmp_path, bytes_of, tarred):
    place = put(tmp_path / "p", "preview.png", "docs/logo.jpg", content=bytes_of(0))
    table(place / "data.parquet", image=[bytes_of(i) for i in range(5)], text=list("abcde"))
    source = open_source(place)
    assert list(by_name(source).values()) == list("abcde") and source.contents.kind == "parquet files"
    assert left(source) == {"preview.png", "docs/logo.jpg"}
    place = put(tmp_path / "t", "preview.png", content=bytes_of(0))
    tarred(place / "0.tar", {f"{i}.png": bytes_of(i) for i in range(3)})
    assert list(by_name(open_source(place))) == ["0.tar:0", "0.tar:1", "0.tar:2"]
    place = put(tmp_path / "b", *(f"{i}.png" for i in range(5)), content=bytes_of(0))
    tarred(place / "backup.tar", {"0.png": bytes_of(0)})  # nor does a stray shard hide pictures
    source = open_source(place)
    assert len(by_name(source)) == source.count == 5 and left(source) == {"backup.tar"}


def test_img2datasets_own_folders(tmp_path, bytes_of, tarred):
    about = {"caption": "of json", "status": "success"}
    files = {"0.jpg": bytes_of(0, kind="JPEG"), "0.txt": b"zero", "0.json": json.dumps(about).encode()}
    files |= {"1.JPG": bytes_of(1, kind="JPEG"), "1.json": json.dumps(about).encode()}
    (tmp_path / "tars").mkdir()
    tarred(tmp_path / "tars" / "00000.tar", files)
    table(tmp_path / "tars" / "00000.parquet", url=["u", "v"], caption=["zero", "one"])
    (tmp_path / "tars" / "00000_stats.json").write_text(json.dumps({"count": 2}))
    source = open_source(tmp_path / "tars")
    assert by_name(source) == {"00000.tar:0": "zero", "00000.tar:1": "of json"}
    assert left(source) == {"00000.parquet", "00000_stats.json"}
    put(tmp_path / "files", "00000/0.jpg", content=files["0.jpg"])
    (tmp_path / "files" / "00000" / "0.json").write_text(json.dumps(about))
    table(tmp_path / "files" / "00000.parquet", url=["u"], caption=["zero"])
    assert by_name(open_source(tmp_path / "files")) == {"00000/0.jpg": "of json"}


def test_lists_of_captions_are_several_captions(tmp_path, bytes_of, tarred, codec, text):
    place = put(tmp_path / "p", "a.png", "b.png", "c.png", content=bytes_of(0))
    rows = [
        {"file_name": "a.png", "text": ["one", "two words"]},
        {"file_name": "b.png", "text": "['x', 'y']"},
        {"file_name": "c.png", "text": "[v] a dog [sks]"},
    ]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(place)
    pairs = [(row.name, row.caption) for row in source.rows()]
    assert pairs == [
        ("a.png", "one"),
        ("a.png", "two words"),
        ("b.png", "x"),
        ("b.png", "y"),
        ("c.png", "[v] a dog [sks]"),
    ]
    assert source.count == 5 and source.contents.pictures == 3
    counting = codec()
    cache = encode_source(source, tmp_path / "c", SIZE, codec=counting, text=text(), show=False)
    assert counting.seen == 3 + 1 and cache.counts == {"16x16": 5}  # each picture once, and the probe
    assert [(name, caption) for _, name, caption in cache.notes()] == pairs
    table(tmp_path / "q" / "a.parquet", image=[bytes_of(0)], caption=[["s", "t"]])
    assert [row.caption for row in open_source(tmp_path / "q").rows()] == ["s", "t"]
    tarred(tmp_path / "r.tar", {"0.png": bytes_of(0), "0.json": json.dumps({"text": ["u", "v"]}).encode()})
    assert [row.caption for row in open_source(tmp_path / "r.tar").rows()] == ["u", "v"]


def test_splits_are_kept_apart_and_are_no_classes(tmp_path, bytes_of, codec, text, caplog):
    for split, n in (("train", 5), ("val", 2), ("test", 3)):
        for kind in ("cat", "dog"):
            for i in range(n):
                put(tmp_path / "p", f"{split}/{kind}/{i}.png", content=bytes_of(i))
    put(tmp_path / "p", "preview.png", content=bytes_of(0))
    source = open_source(tmp_path / "p")
    assert source.contents.classes == ["cat", "dog"] and source.contents.used == ("train", "validation")
    assert {split: part.pictures for split, part in source.contents.parts.items()} == {
        "train": 10,
        "validation": 4,
        "test": 6,
    }
    assert all(row.label == ("dog" in row.name) for row in source.rows())
    assert all(row.split == {"train": "train", "val": "validation"}[row.name[:-10]] for row in source.rows())
    assert left(source) == {"preview.png"}
    with caplog.at_level(logging.WARNING, "stillhouse"):
        cache = encode_source(source, tmp_path / "c", SIZE, classes=2, show=False)
    assert any("preview.png" in r.getMessage() for r in caplog.records)
    data = CachedData(cache, held_out=0.5)
    names = [name for _, name, _ in cache.notes()]
    assert {names[i].split("/")[0] for i in data.kept["16x16"].tolist()} == {"train"} and len(data) == 10
    assert {names[row].split("/")[0] for _, row, _ in data._shown} == {"val"} and data.held_out == 4
    with pytest.raises(StillhouseError, match="held out .test.; to learn from them, name the folder"):
        only = put(tmp_path / "only", "test/a.png", content=bytes_of(0))
        encode_source(open_source(only), tmp_path / "d", SIZE, show=False)
    assert len(by_name(open_source(tmp_path / "only" / "test"))) == 1


@pytest.mark.parametrize(
    "names, learnt, held, classes",
    [
        (("a.png", "b.png", "test/c.png"), {"a.png", "b.png"}, {"test/c.png"}, []),
        (("train2017/a.png", "val2017/b.png"), {"train2017/a.png"}, {"val2017/b.png"}, []),
        (("cat/train/a.png", "cat/test/b.png", "dog/train/c.png"), {"cat/train/a.png", "dog/train/c.png"},
         {"cat/test/b.png"}, ["cat", "dog"]),
        (("car/a.png", "plane/b.png", "train/c.png"), {"car/a.png", "plane/b.png", "train/c.png"}, set(),
         ["car", "plane", "train"]),  # a class may be a train
        (("bowl/a.png", "test_tube/b.png"), {"bowl/a.png", "test_tube/b.png"}, set(), ["bowl", "test_tube"]),
        (("train_images/a.png", "test_images/b.png", "more/c.png"), {"train_images/a.png"},
         {"test_images/b.png"}, []),
        (("images/cat/a.png", "images/dog/b.png"), {"images/cat/a.png", "images/dog/b.png"}, set(),
         ["cat", "dog"]),
        (("images/a.png", "images/b.png"), {"images/a.png", "images/b.png"}, set(), []),
    ],
)  # fmt: skip
def test_what_lies_beside_one_another_decides(tmp_path, bytes_of, names, learnt, held, classes):
    source = open_source(put(tmp_path / "p", *names, content=bytes_of(0)))
    splits = by_name(source, "split")
    assert {name for name, split in splits.items() if split == "train"} == learnt
    assert {name for name, split in splits.items() if split != "train"} == held
    assert source.contents.classes == classes and left(source) == set(names) - learnt - held


def test_splits_of_shards_and_of_tables(tmp_path, bytes_of, tarred):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        table(tmp_path / "p" / "data" / f"{name}.parquet", image=[bytes_of(0)], text=[name])
    assert sorted(by_name(open_source(tmp_path / "p"), "split").values()) == ["train", "train", "validation"]
    table(tmp_path / "c" / "x.parquet", image=[bytes_of(0)] * 3, split=["train", "test", "val"])
    assert list(by_name(open_source(tmp_path / "c"), "split").values()) == ["train", "validation"]
    place = put(tmp_path / "t", content=b"")
    (tmp_path / "t").mkdir()
    for split in ("train", "test"):
        tarred(place / f"cc-{split}-0000.tar", {f"{split}.png": bytes_of(0)})
    assert by_name(open_source(place), "split") == {
        "cc-test-0000.tar:test": "test",
        "cc-train-0000.tar:train": "train",
    }
    place = put(tmp_path / "m", "images/a.png", "images/b.png", "images/c.png", content=bytes_of(0))
    (place / "train.csv").write_text("file_name,text\nimages/a.png,x\n")
    (place / "test.csv").write_text("file_name,text\nimages/b.png,y\n")
    source = open_source(place)
    assert by_name(source, "split") == {"images/a.png": "train", "images/b.png": "test"}
    assert left(source) == {"images/c.png"}
    (place / "metadata.csv").write_text("file_name,split\nimages/a.png,val\nimages/b.png,train\n")
    assert by_name(open_source(place), "split") == {"images/a.png": "validation", "images/b.png": "train"}


def test_tables_are_read_as_their_format_says(tmp_path, bytes_of, caplog):
    place = put(tmp_path / "p", "a.png", "b.png", "c.png", content=bytes_of(0))

    def read(content, name="metadata.csv"):
        (place / name).write_bytes(content.encode())
        source = open_source(place)
        (place / name).unlink()
        return by_name(source)

    with caplog.at_level(logging.WARNING, "stillhouse"):
        assert read("file_name,text\na.png,a cat, a dog\nb.png,plain\n") == {
            "a.png": "a cat, a dog",
            "b.png": "plain",
        }
    assert any("1 row(s)" in r.getMessage() and "outside quotes" in r.getMessage() for r in caplog.records)
    assert read("text,file_name,label\na cat, a dog,a.png,3\n") == {"a.png": "a cat, a dog"}
    assert read('file_name, text\na.png, "one, two"\nb.png, three\n') == {
        "a.png": "one, two",
        "b.png": "three",
    }
    assert read("\ufeffFile_Name,TEXT\na.png,one\n") == {"a.png": "one"}
    assert read("file_name;text\na.png;one, two\n") == {"a.png": "one, two"}
    assert read("file_name\ttext\na.png\tone, two\n", "metadata.tsv") == {"a.png": "one, two"}
    assert read('file_name,text\r\na.png,"one\u2028two\x0bthree"\r\n') == {"a.png": "one two three"}
    line = json.dumps({"file_name": "a.png", "text": "one\u2028two"}, ensure_ascii=False)
    assert read(f"{line}\r\n{line.replace('a.png', 'b.png')}", "metadata.jsonl") == {
        "a.png": "one two",
        "b.png": "one two",
    }
    assert read('{"file_name": "a.png", "text": NaN, "label": NaN}', "metadata.jsonl") == {"a.png": None}
    listed = '[{"image": "a.png", "caption": "one"}, {"image": "b.png", "caption": "two"}]'
    assert read(listed, "captions.json") == {"a.png": "one", "b.png": "two"}
    assert len(read("file\na.png\n", "blurred.csv")) == 3  # a stray table decides nothing
    with pytest.raises(StillhouseError, match="Row 2 of .* has 3 values in 2 columns; put what holds a ','"):
        read("file_name,name\na.png,b,c\n")
    (place / "metadata.csv").unlink()
    table(place / "metadata.parquet", file_name=["a.png", "b.png"], text=["one", None])
    assert by_name(open_source(place)) == {"a.png": "one", "b.png": None}
    table(tmp_path / "q.parquet", image=[bytes_of(0)] * 2, text=[float("nan"), float("nan")])
    assert list(by_name(open_source(tmp_path / "q.parquet")).values()) == [None, None]


def test_a_table_leads_nowhere_outside_and_names_what_is_missing(tmp_path, bytes_of):
    put(tmp_path, "secret.png", "p/a.png", content=bytes_of(0))
    place = tmp_path / "p"
    rows = f"file_name\na.png\n../secret.png\n{tmp_path}/secret.png\ngone.png\n"
    (place / "metadata.csv").write_text(rows)
    source = open_source(place)
    assert list(by_name(source)) == ["a.png"] and source.count == 1
    assert left(source) == {"../secret.png", f"{tmp_path}/secret.png", "gone.png"}
    # a link out of the folder is no way either, and a pipe is no file: to read it would wait for ever
    (place / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(place / "pipe.png")
    (place / "metadata.csv").write_text("file_name\na.png\nlink.png\npipe.png\n")
    source = open_source(place)
    assert list(by_name(source)) == ["a.png"] and left(source) == {"link.png", "pipe.png"}
    (place / "metadata.csv").unlink()
    source = open_source(place)
    assert source.contents.left_out == {"entry(s) that are neither file nor folder": ["pipe.png"]}


def test_a_huge_picture_is_not_decoded_whole(tmp_path, caplog):
    side = 8100  # 65.6 million pixels
    for name in ("huge.png", "huge.jpg"):
        Image.new("L", (side, side)).save(tmp_path / name)
    source = open_source(tmp_path)
    opened = {row.name: source.open(row) for row in source.rows()}
    assert opened["huge.png"] is None and source.skipped["huge.png"] == "it has more than 64 million pixels"
    assert opened["huge.jpg"].size == (side // 2 + side % 2, side // 2 + side % 2)


def test_labels_by_name(tmp_path, bytes_of):
    place = put(tmp_path / "p", "a.png", "b.png", "c.png", content=bytes_of(0))
    (place / "metadata.csv").write_text("file_name,label\na.png,dog\nb.png,cat\nc.png,\n")
    source = open_source(place)
    assert by_name(source, "label") == {"a.png": 1, "b.png": 0, "c.png": None}
    assert source.contents.classes == ["cat", "dog"]
    table(tmp_path / "q.parquet", image=[bytes_of(0)] * 2, label=[2.0, float("nan")])
    assert list(by_name(open_source(tmp_path / "q.parquet"), "label").values()) == [2, None]


def test_every_ending_is_read_or_named(tmp_path, bytes_of):
    kinds = {"a.avif": "AVIF", "b.jfif": "JPEG", "c.jp2": "JPEG2000", "d.JPG": "JPEG", "e.ppm": "PPM"}
    for name, kind in kinds.items():
        put(tmp_path / "p", name, content=bytes_of(1, kind=kind))
    put(tmp_path / "p", "f.heic", "g.npz", "README.md", "prompts.txt", content=b"x")
    (tmp_path / "p" / "a.caption").write_text("of a caption file")
    (tmp_path / "p" / "d.JPG.txt").write_text("under the whole name")
    source = open_source(tmp_path / "p")
    assert sorted(name for name, image, _ in source if image is not None) == sorted(kinds)
    captions = by_name(source)
    assert captions["a.avif"] == "of a caption file" and captions["d.JPG"] == "under the whole name"
    assert {next(iter(names)): reason for reason, names in source.contents.left_out.items()} == {
        "f.heic": ".heic picture(s), which are not read",
        "g.npz": ".npz file(s), which are not read",
        "README.md": ".md file(s), which are not read",
        "prompts.txt": ".txt file(s) that belong to no picture",
    }


def test_linked_folders_are_followed_but_not_in_a_circle(tmp_path, bytes_of):
    put(tmp_path, "elsewhere/x.png", "p/cat/a.png", content=bytes_of(0))
    place = tmp_path / "p"
    (place / "dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (place / "cat" / "again").symlink_to(place, target_is_directory=True)
    (place / "gone.png").symlink_to(tmp_path / "nothing.png")
    source = open_source(place)
    assert by_name(source, "label") == {"cat/a.png": 0, "dog/x.png": 1}
    assert left(source) == {"cat/again", "gone.png"}


def test_captions_that_are_no_text_leave_their_picture_out(tmp_path, bytes_of):
    place = put(tmp_path / "p", "a.png", "b.png", content=bytes_of(0))
    (place / "a.txt").write_bytes("café".encode("latin-1"))
    source = open_source(place)
    assert list(by_name(source)) == ["b.png"] and "a.png" in left(source)


@pytest.mark.parametrize(
    "values, kind",
    [
        (np.linspace(0, 1, 256, dtype=np.float32), "F"),
        (np.linspace(0, 255, 256, dtype=np.float32), "F"),
        (np.linspace(0, 65535, 256, dtype=np.float32), "F"),
        (np.linspace(-3, 5, 256, dtype=np.float32), "F"),
        (np.arange(256, dtype=np.int32), "I"),
        (np.arange(256, dtype=np.int32) << 8, "I"),
        (np.arange(256, dtype=np.int32) << 23, "I"),
        ((np.arange(256, dtype=np.uint32) << 24).view(np.int32), "I"),
        (np.arange(256, dtype=np.uint16) << 8, "I;16"),
    ],
)
def test_pictures_of_many_bits_keep_their_grey(tmp_path, values, kind):
    image = Image.fromarray(values.reshape(16, 16))
    assert image.mode == kind
    image.save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as read:
        got = to_tensor(read, SIZE, 1).flatten()
    assert torch.allclose(got, torch.linspace(-1, 1, 256), atol=1.5 / 127.5)


def test_a_broken_note_or_a_broken_value_costs_at_most_its_picture(tmp_path, bytes_of):
    place = put(tmp_path / "p", "a.png", content=bytes_of(0))
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)
    odd = {"date as a ratio": (0x0132, 5, 1, 1), "resolution as text": (0x011A, 2, 2, 0xFFFFFFFF)}
    for name, entry in odd.items():  # a note that can be read, but not written again
        note = b"II*\0" + struct.pack("<IH", 8, 2) + turned + struct.pack("<HHII", *entry) + bytes(4)
        Image.new("RGB", (8, 24), "red").save(place / f"{name}.jpg", exif=b"Exif\0\0" + note)
        with Image.open(place / f"{name}.jpg") as image:
            assert upright(image) == (8, 24) and to_tensor(image, (8, 24)).shape == (3, 8, 24)
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(place / "d.tif")
    cache = encode_source(open_source(place), tmp_path / "c", SIZE, show=False)
    assert cache.counts == {"16x16": 3}
    assert cache.skipped == {"d.tif": "it is broken (it holds NaN or infinite values)"}


def test_an_edited_picture_is_noticed_and_a_touched_one_is_not(folder, tmp_path, codec):
    place, cache = folder(3), tmp_path / "c"
    old = 1_600_000_000
    for file in place.iterdir():
        os.utime(file, (old, old))

    def encode(**options):
        return encode_source(open_source(place), cache, SIZE, codec=codec(), show=False, **options)

    encode()
    known = json.loads((cache / "digests.json").read_text())
    assert set(known) == {"000.png", "001.png", "002.png"}
    encode()
    (place / "000.png").touch()
    encode()
    content = (place / "001.png").read_bytes()
    other = (place / "002.png").read_bytes()
    assert content != other
    (place / "001.png").write_bytes(other + b"\0" * (len(content) - len(other)))  # as long as before
    with pytest.raises(StillhouseError, match="other data"):
        encode()
    encode(refresh=True)


def test_what_an_earlier_version_encoded_is_made_anew_with_one_line(folder, tmp_path, codec, caplog):
    place, cache = folder(3), tmp_path / "c"
    encode_source(open_source(place), cache, SIZE, codec=codec(), show=False)
    index = json.loads((cache / "index.json").read_text())
    del index["key"]["reader"]
    index["key"]["source"] = "as it was"
    (cache / "index.json").write_text(json.dumps(index))
    assert len(CachedData(cache)) == 3  # it can still be read
    with pytest.raises(StillhouseError, match="another picture size"):  # what was refused is refused
        encode_source(open_source(place), cache, (24, 24), codec=codec(), show=False)
    again = codec()
    with caplog.at_level(logging.WARNING, "stillhouse"):
        encode_source(open_source(place), cache, SIZE, codec=again, show=False)
    assert again.seen == 3 + 2
    assert sum("of an earlier version" in r.getMessage() for r in caplog.records) == 1


def test_what_is_found_is_printed(folder, tmp_path, codec, capsys):
    encode_source(open_source(folder(3)), tmp_path / "c", SIZE, codec=codec())
    shown = capsys.readouterr().err
    assert "3 picture(s) in files (3 png)" in shown and "train: 3 picture(s), 3 caption(s)" in shown


def test_pictures_of_one_name_in_a_parquet_file_are_several(tmp_path, bytes_of, codec):
    images = [{"bytes": bytes_of(i), "path": "image.png"} for i in range(3)]
    table(tmp_path / "a.parquet", image=images)
    cache = encode_source(
        open_source(tmp_path / "a.parquet"), tmp_path / "c", SIZE, codec=codec(), show=False
    )
    assert [name for _, name, _ in cache.notes()] == [f"a.parquet:{i}" for i in range(3)]
    x, _ = cache.read("16x16", torch.arange(3))
    assert len(x[:, :3, 0, 0].unique(dim=0)) == 3


def test_what_datasets_keeps_for_itself_is_refused_with_the_way_out(tmp_path):
    put(tmp_path / "p", "data-00000-of-00001.arrow", "state.json", content=b"{}")
    with pytest.raises(StillhouseError, match="write parquet files"):
        open_source(tmp_path / "p")
