"""Encoded once: resumed after a kill, refused under another key, read back row by row."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from stillhouse.core.errors import StillhouseError
from stillhouse.io.data import buckets, encode_prompts, encode_source, open_cache, open_source
from stillhouse.io.data.cache import fill

SIZE = (16, 16)


def shards(cache):
    return sorted(f.name for f in cache.glob("shard-*"))


def rows(cache):
    notes = list(cache.notes())
    tags = {tag for tag, _, _ in notes}
    return {
        tag: (cache.read(tag, torch.arange(cache.counts[tag])), [n for t, n, _ in notes if t == tag])
        for tag in tags
    }


def test_latents_and_captions_come_back_in_the_sources_order(folder, tmp_path, text, codec, caplog):
    place = folder(7)
    (place / "003.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING, "stillhouse"):
        cache = encode_source(
            open_source(place), tmp_path / "c", SIZE, codec=codec(), text=text(), shard=3, batch=2, show=False
        )
    assert shards(tmp_path / "c") == [f"shard-0000{i}.safetensors" for i in range(3)] and cache.shape == (
        4,
        2,
        2,
    )
    (x, cond), names = rows(cache)["16x16"]
    assert names == [f"{i:03d}.png" for i in (0, 1, 2, 4, 5, 6)] and cache.skipped == {
        "003.png": "it is no image"
    }
    assert (
        x.shape == (6, 4, 2, 2)
        and x.dtype == torch.float32
        and load_file(tmp_path / "c" / shards(tmp_path / "c")[0])["16x16/x"].dtype == torch.float16
    )
    assert torch.equal(x[0, :, 0, 0], torch.tensor([1.0, -1.0, -1.0, -1 / 3]).half().float())  # red
    expected = text().encode(
        [
            "a red picture",
            "a green picture",
            "a blue picture",
            "a white picture",
            "a black picture",
            "a red picture",
        ]
    )
    assert (
        torch.allclose(cond["tokens"], expected["tokens"], rtol=1e-3)
        and cond["mask"].dtype == torch.bool
        and bool(cond["mask"].all())
    )
    some, told = cache.read("16x16", torch.tensor([5, 0, 3]))
    assert torch.equal(some, x[[5, 0, 3]]) and torch.equal(told["tokens"], cond["tokens"][[5, 0, 3]])
    assert sum(r.getMessage().startswith("Skipped '003.png'") for r in caplog.records) == 1


def test_a_killed_run_goes_on_where_it_was(folder, tmp_path, text, codec):
    class Killed(codec):
        def encode(self, images):
            if self.seen >= 4:
                raise KeyboardInterrupt
            return super().encode(images)

    place = folder(10)
    whole = encode_source(
        open_source(place), tmp_path / "whole", SIZE, codec=codec(), text=text(), shard=3, batch=3, show=False
    )
    with pytest.raises(KeyboardInterrupt):
        encode_source(
            open_source(place),
            tmp_path / "c",
            SIZE,
            codec=Killed(),
            text=text(),
            shard=3,
            batch=3,
            show=False,
        )
    assert shards(tmp_path / "c") == ["shard-00000.safetensors"] and not list((tmp_path / "c").glob(".*"))
    with pytest.raises(StillhouseError, match="not finished"):
        open_cache(tmp_path / "c")
    again = codec()
    resumed = encode_source(
        open_source(place), tmp_path / "c", SIZE, codec=again, text=text(), shard=3, batch=3, show=False
    )
    assert again.seen == 7 + 1  # what was left, and the probe
    assert torch.equal(rows(resumed)["16x16"][0][0], rows(whole)["16x16"][0][0])
    last = codec()
    encode_source(
        open_source(place), tmp_path / "c", SIZE, codec=last, text=text(), shard=3, batch=3, show=False
    )
    assert last.seen == 1
    (tmp_path / "c" / "shard-00002.safetensors").write_bytes(b"torn")
    with pytest.raises(StillhouseError, match="shard-00002.safetensors' is missing or damaged"):
        list(open_cache(tmp_path / "c").notes())
    (tmp_path / "c" / "shard-00002.safetensors").unlink()
    mended = encode_source(
        open_source(place), tmp_path / "c", SIZE, codec=codec(), text=text(), shard=3, batch=3, show=False
    )
    assert torch.equal(rows(mended)["16x16"][0][0], rows(whole)["16x16"][0][0])


def test_another_key_is_refused_in_one_sentence(folder, tmp_path, text, codec):
    place, cache = folder(4), tmp_path / "c"

    def encode(size=SIZE, **options):
        return encode_source(
            open_source(place), cache, size, **{"codec": codec(), "text": text(), "show": False, **options}
        )

    encode()
    encode(codec=codec(1.001), text=text(1.001))  # as near as rounding
    for options, sentence in (
        ({"size": (16, 24)}, r"another picture size \(\[16, 16\] there, \[16, 24\] now\)"),
        ({"sizes": [(16, 16), (8, 24)]}, "other picture sizes"),
        ({"dtype": torch.float32}, r"another number format \(float16 there, float32 now\)"),
        ({"codec": codec(1.5)}, r"another codec \(x differs by 0.5"),
        ({"text": text(0.5)}, r"another text encoder \(cond.tokens differs by 0.5"),
        ({"text": None}, r"another text encoder \(cond.mask is gone"),
        ({"codec": None}, "another kind of encoding"),
    ):
        with pytest.raises(StillhouseError, match=sentence) as error:
            encode(**options)
        assert str(error.value).endswith("; name another folder, or refresh it to encode anew.")
    (place / "000.png").unlink()
    with pytest.raises(StillhouseError, match="other data"):
        encode()
    (cache / "mine.txt").write_text("kept")
    fresh = encode(codec=codec(1.5), refresh=True)
    assert sum(fresh.counts.values()) == 3 and (cache / "mine.txt").exists()
    assert float(rows(fresh)["16x16"][0][0].max()) == 1.5
    (cache / "index.json").write_text("{")
    with pytest.raises(StillhouseError, match="is not the index of a cache"):
        encode()
    (cache / "index.json").unlink()
    with pytest.raises(StillhouseError, match="shards .* but no index.json"):
        encode()


def test_pictures_go_to_the_bucket_of_their_aspect(folder, tmp_path, text, codec):
    class Sized(text):
        at_size = (0, 0)

        def at(self, height, width):
            made = Sized()
            made.at_size = (height, width)
            return made

        def encode(self, prompts):
            return {**super().encode(prompts), "ids": torch.tensor([self.at_size] * len(prompts))}

    sizes = buckets((32, 32), 8, 5)
    place = folder(9, sizes=((40, 40), (80, 40), (40, 80)))
    cache = encode_source(
        open_source(place),
        tmp_path / "c",
        (32, 32),
        codec=codec(),
        text=Sized(),
        sizes=sizes,
        shard=4,
        batch=2,
        show=False,
    )
    tall, wide = sizes[0], sizes[-1]
    assert cache.counts == {
        "32x32": 3,
        f"{wide[0]}x{wide[1]}": 3,
        f"{tall[0]}x{tall[1]}": 3,
    } and cache.shape == (4, 4, 4)
    for tag, ((x, cond), names) in rows(cache).items():
        height, width = map(int, tag.split("x"))
        assert x.shape[1:] == (4, height // 8, width // 8) and cond["ids"].tolist() == [[height, width]] * 3
        assert [int(n[:3]) % 3 for n in names] == [{"32x32": 0}.get(tag, 1 if width > height else 2)] * 3


def test_pixels_labels_and_grey(folder, tmp_path, bytes_of, caplog):
    for name in "01":
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "a.png").write_bytes(bytes_of(int(name)))
    cache = encode_source(
        open_source(tmp_path / "classes"), tmp_path / "c", SIZE, channels=1, classes=2, show=False
    )
    (x, cond), _ = rows(cache)["16x16"]
    assert (
        x.shape == (2, 1, 16, 16) and cond.tolist() == [0, 1] and cond.dtype == torch.int64 and cache.labelled
    )
    with pytest.raises(StillhouseError, match="'1/a.png' is of class 1, but the model's classes are 0 … 0"):
        encode_source(open_source(tmp_path / "classes"), tmp_path / "d", SIZE, classes=1, show=False)
    with caplog.at_level(logging.WARNING, "stillhouse"):
        none = encode_source(open_source(folder(2)), tmp_path / "e", (32, 32), classes=4, show=False)
    assert not none.labelled and rows(none)["32x32"][0][1].tolist() == [-1, -1]
    assert any("has no labels" in r.getMessage() for r in caplog.records) and any(
        "2 image(s) are smaller" in r.getMessage() for r in caplog.records
    )


def test_no_usable_image_leaves_nothing_behind(folder, tmp_path, codec, text):
    place = folder(2)
    for i in range(2):
        (place / f"00{i}.png").write_bytes(b"x")
    with pytest.raises(
        StillhouseError, match="None of the 2 images can be used .the first, '000.png': it is no image"
    ):
        encode_source(open_source(place), tmp_path / "c", SIZE, codec=codec(), text=text(), show=False)
    assert not list((tmp_path / "c").iterdir())


def test_numbers_that_cannot_be_kept_are_refused_by_name(folder, tmp_path, codec):
    with pytest.raises(
        StillhouseError, match="makes of '000.png' is too large for float16; keep the cache in bfloat16"
    ):
        encode_source(open_source(folder(2)), tmp_path / "c", SIZE, codec=codec(1e6), show=False)
    with pytest.raises(StillhouseError, match="makes of '000.png' is not finite; run it"):
        encode_source(open_source(folder(2)), tmp_path / "d", SIZE, codec=codec(float("nan")), show=False)
    kept = encode_source(
        open_source(folder(2)), tmp_path / "e", SIZE, codec=codec(1e6), dtype=torch.bfloat16, show=False
    )
    assert float(rows(kept)["16x16"][0][0].max()) == pytest.approx(1e6, rel=0.01)


def test_prompts_are_kept_the_same_way(tmp_path, text):
    prompts = [f"{i} things" for i in range(10)]
    cache = encode_prompts(prompts, tmp_path / "c", text(), shard=4, batch=3, show=False)
    x, cond = cache.read("", torch.arange(10))
    assert (
        x is None
        and torch.allclose(cond["tokens"], text().encode(prompts)["tokens"], rtol=1e-3)
        and cache.shape is None
    )
    counting = text()
    encode_prompts(prompts, tmp_path / "c", counting, shard=4, batch=3, show=False)
    assert counting.asked == 2  # the probe
    with pytest.raises(StillhouseError, match="other data"):
        encode_prompts(prompts[:-1], tmp_path / "c", text(), shard=4, show=False)
    assert json.loads((tmp_path / "c" / "index.json").read_text())["complete"] is True


def test_processes_share_the_work(tmp_path):
    made = {0: [], 1: []}

    def work(rank):
        def make(rows):
            made[rank].append(values := list(rows))
            return {"/x": torch.tensor(values)}, {
                "rows": {"": [(str(v), None) for v in values]},
                "skipped": {},
                "labelled": False,
            }

        return fill(
            tmp_path,
            {"shard": 2},
            lambda asked: ({"x": torch.zeros(1)}, []),
            iter(range(9)),
            make,
            place=(rank, 2),
        )

    with ThreadPoolExecutor(2) as pool:
        caches = list(pool.map(work, [1, 0]))
    assert made == {0: [[0, 1], [4, 5], [8]], 1: [[2, 3], [6, 7]]}
    assert all(cache.read("", torch.arange(9))[0].tolist() == list(range(9)) for cache in caches)
