"""Folders are read as the ``datasets`` library reads them, where it reads them; and of folders made at random
nothing is trained on that was not announced."""

import io
import json
import tarfile
from pathlib import Path, PurePath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stillhouse.io.data import encode_source, open_source
from stillhouse.io.data.splits import WORDS
from stillhouse.train.cached import CachedData

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
import pyarrow.parquet as parquet  # noqa: E402

BUFFER = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(BUFFER, "PNG")
PICTURE = BUFFER.getvalue()


def put(root: Path, name: str, content: bytes = PICTURE) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def shard(root: Path, name: str, rows: int, images: bool = True) -> None:
    columns = {"text": [f"{name} {i}" for i in range(rows)]}
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(
        pyarrow.table({**({"image": [PICTURE] * rows} if images else {}), **columns}), root / name
    )


def tar(root: Path, name: str, files: dict[str, bytes]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / name, "w") as archive:
        for inner, content in files.items():
            about = tarfile.TarInfo(inner)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def test_the_words_of_splits_are_those_of_datasets():
    from datasets.data_files import SPLIT_KEYWORDS

    assert {str(split): tuple(words) for split, words in SPLIT_KEYWORDS.items()} == WORDS


def classes(root):
    for split in ("train", "test"):
        for name in ("dog", "cat", "ant"):
            put(root, f"{split}/{name}/0.png")
    return "imagefolder"


def listed(root):
    for split in ("train", "validation"):
        for i in range(2):
            put(root, f"{split}/{i}.png")
        rows = [{"file_name": f"{i}.png", "text": f"{split}, {i}"} for i in range(2)]
        put(root, f"{split}/metadata.jsonl", "\n".join(map(json.dumps, rows)).encode())
    return "imagefolder"


def comma_separated(root):
    for i in range(3):
        put(root, f"{i}.png")
    put(root, "metadata.csv", b'file_name,text\n0.png,"a, b"\n2.png,"c\nd"\n')
    return "imagefolder"


def shards(root):
    for name, rows in (("train-00000-of-00002", 2), ("train-00001-of-00002", 1), ("test-00000-of-00001", 2)):
        shard(root, f"data/{name}.parquet", rows)
    return "parquet"


def tars(root):
    for split, rows in (("train", 3), ("val", 2)):
        files = {
            f"{i}.{kind}": PICTURE if kind == "png" else b"x y"
            for i in range(rows)
            for kind in ("png", "txt")
        }
        tar(root, f"{split}-000.tar", files)
    return "webdataset"


@pytest.mark.parametrize("make", [classes, listed, comma_separated, shards, tars])
def test_the_same_rows_as_datasets(tmp_path, make, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    kind = make(tmp_path / "data")
    theirs = datasets.load_dataset(
        kind, data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), streaming=True
    )
    source = open_source(tmp_path / "data")
    ours: dict[str, list] = {}
    for row in source.rows():
        ours.setdefault(row.split, []).append((row.caption, row.label))
    expected = {
        str(split): [
            (" ".join(text.split()) if (text := r.get("text") or r.get("txt")) else None, r.get("label"))
            for r in rows
        ]
        for split, rows in theirs.items()
    }
    assert {split: sorted(rows, key=str) for split, rows in ours.items()} == {
        split: sorted(rows, key=str) for split, rows in expected.items()
    }


FOLDERS = [
    "",
    "train/",
    "val/",
    "test/",
    "train/cat/",
    "train/dog/",
    "test/cat/",
    "images/",
    "cat/",
    "dog/",
    "data/",
]
FILES = ["a.png", "b.PNG", "c.jpg", "a.txt", "b.caption", "note.md", "d.heic", ".e.png", "train-0.parquet",
         "test-0.parquet", "meta.parquet", "train.tar", "x.tar", "metadata.csv", "torn.png"]  # fmt: skip


def write(root: Path, name: str) -> None:
    """A file of its kind."""
    kind = PurePath(name).name
    if kind == "torn.png":
        put(root, name, PICTURE[:30])
    elif kind.endswith(".parquet"):
        shard(root, name, 2, images=kind != "meta.parquet")
    elif kind.endswith(".tar"):
        tar(root, name, {"0.png": PICTURE, "0.txt": b"of a tar", "1.txt": b"alone"})
    elif kind == "metadata.csv":
        put(root, name, b"file_name,text\na.png,listed, with a comma\ngone.png,x\n")
    elif kind.lower().endswith((".png", ".jpg")):
        put(root, name)
    else:
        put(root, name, b"some words")


@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sets(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(FILES)), min_size=1, max_size=14))
def test_what_is_read_was_announced_and_what_was_announced_is_read(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("made")
    for folder, file in files:
        write(root, folder + file)
    pictures = {
        folder + file for folder, file in files if file.lower().endswith((".png", ".jpg")) and file[0] != "."
    }
    holding = {f + n for f, n in files if n.endswith((".tar", ".parquet")) and n != "meta.parquet"}
    try:
        source = open_source(root)
    except Exception as error:
        assert not (pictures or holding) or "it is missing" in str(error), error  # as a table has it
        return
    contents, rows = source.contents, list(source.rows())
    # the numbers that are printed are those of the rows
    assert source.count == len(rows)
    for split in contents.used:
        of_split = [row for row in rows if row.split == split]
        assert len(of_split) == contents.parts[split].rows
        assert sum(row.caption is not None for row in of_split) == contents.parts[split].captions
        assert sum(row.label is not None for row in of_split) == contents.parts[split].labels
    # every file is read, or named among those left out, and not both
    read = {row.name.partition(":")[0] for row in source.all_rows()}
    left = {name for names in contents.left_out.values() for name in names}
    assert not read & left - {"x.tar"} and pictures | holding <= read | left
    others = {f + n for f, n in files} - read - left
    assert {PurePath(name).name for name in others} <= {"a.txt", "b.caption", "metadata.csv"}  # captions
    # what lies in a folder of that name is not learnt from
    held = {"val": "validation", "test": "test"}
    for row in rows:
        top = row.name.split("/")[0]
        assert top not in held or row.split == held[top]
    if "train" not in contents.parts or all(row.name.endswith("torn.png") for row in rows):
        return
    cache = encode_source(source, root.parent / f"{root.name}.cache", (8, 8), show=False, shard=4)
    names = [name for _, name, _ in cache.notes()]
    assert set(names) | set(cache.skipped) == {row.name for row in rows}
    assert {PurePath(name).name for name in cache.skipped} <= {"torn.png"}
    if any(row.split == "train" and row.name in names for row in rows):
        data = CachedData(cache, held_out=0.0)
        learnt = {names[i] for i in data.kept["8x8"].tolist()}
        assert learnt == {row.name for row in rows if row.split == "train"} - set(cache.skipped)
