"""Encoded data in the loop: the same rows for the same place, one picture size a batch, and the data that a
path means."""

from __future__ import annotations

import io
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from stillhouse.core.denoiser import Denoiser
from stillhouse.core.draws import Draws
from stillhouse.core.errors import StillhouseError
from stillhouse.core.schedules import Flow
from stillhouse.io.data import buckets, encode_prompts, encode_source, open_source
from stillhouse.model import Model
from stillhouse.opening import load
from stillhouse.samplers.sampling import Sampling
from stillhouse.systems.registry import find
from stillhouse.train.cached import CachedData, data_for
from stillhouse.train.data import Prompts
from stillhouse.train.loop import Trainer
from stillhouse.train.recipe import Recipe
from stillhouse.worlds.base import get_world

torch.set_num_threads(1)


class Text:
    """One token that is the prompt's length."""

    def encode(self, prompts):
        return {"tokens": torch.tensor([[[float(len(p))]] for p in prompts])}

    def describe(self):
        return {"name": "fake"}


class Codec:
    """Eight pixels to a latent's side."""

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 8)

    def decode(self, latents):
        return torch.nn.functional.interpolate(latents, scale_factor=8)


def pictures(folder: Path, n: int, sizes=((16, 16),)) -> Path:
    """Pictures numbered in their grey value, with captions as long as that number."""
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", sizes[i % len(sizes)], (i, i, i)).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text("x" * (i + 1))
    return folder


def ids(x):
    return ((x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def cached(tmp_path, n, sizes=(), shapes=((16, 16),), **options):
    source = open_source(pictures(tmp_path / "p", n, shapes))
    return CachedData(
        encode_source(source, tmp_path / "c", (16, 16), text=Text(), sizes=sizes, shard=4, show=False),
        **options,
    )


def model(shape=(3, 2, 2), text=None, codec=None, classes=0):
    denoiser = Denoiser(torch.nn.Identity(), Flow(), "velocity")
    return Model(
        denoiser, shape, classes, {4: Sampling.steps(Flow(), 4)}, free_steps=True, text=text, codec=codec
    )


def test_every_epoch_shows_every_row_once_and_follows_from_its_place(tmp_path):
    data = cached(tmp_path, 10)
    assert data.shape == (3, 16, 16) and len(data) == 10 and data.classes == 0
    seen = [i for start in range(0, 30, 6) for i in ids(data.rows(start, Draws(6, "rows"))[0])]
    epochs = [seen[:10], seen[10:20], seen[20:]]
    assert all(sorted(e) == list(range(10)) for e in epochs) and len(set(map(tuple, epochs))) == 3
    again = CachedData(tmp_path / "c")
    assert ids(again.rows(18, Draws(6, "other"))[0]) == seen[18:24]
    assert [ids(again.rows(18, Draws(2, "rows", rank=r, world=3))[0]) for r in range(3)] == [
        seen[18:20],
        seen[20:22],
        seen[22:24],
    ]
    assert ids(CachedData(tmp_path / "c", seed=1).rows(0, Draws(10, "rows"))[0]) != seen[:10]
    x, cond = again.rows(3, Draws(25, "rows"))
    assert cond["tokens"][:, 0, 0].int().tolist() == [i + 1 for i in ids(x)] and len(x) == 25


def test_what_is_held_out_is_never_a_row(tmp_path):
    data = cached(tmp_path, 60, held_out=0.3)
    rows = set(ids(data.rows(0, Draws(len(data), "rows"))[0]))
    shown = {int(v) - 1 for v in data.examples(data.held_out)["tokens"][:, 0, 0]}
    assert 8 <= data.held_out <= 28 and rows.isdisjoint(shown) and rows | shown == set(range(60))
    assert [len(c) for c in data.captions(5)] == data.examples(5)["tokens"][:, 0, 0].int().tolist()
    assert len(data.examples(100)["tokens"]) == 100
    assert CachedData(tmp_path / "c", held_out=0.3, seed=5)._shown == data._shown
    few = CachedData(tmp_path / "c", held_out=0.999)
    assert few.held_out in (59, 60, 0) and len(few) >= 1


def test_a_batch_is_of_one_size_and_sizes_come_as_often_as_they_have_rows(tmp_path):
    sizes = buckets((16, 16), 8, 3)
    assert len(sizes) == 3
    data = cached(tmp_path, 36, sizes, shapes=((16, 16), (16, 16), (32, 16), (16, 16), (16, 32), (16, 16)))
    assert {tag: len(rows) for tag, rows in data.kept.items()} == {"16x16": 24, "8x24": 6, "24x8": 6}
    met: Counter[int] = Counter()
    shapes: Counter[tuple[int, ...]] = Counter()
    for start in range(0, 36 * 4, 4):
        x, cond = data.rows(start, Draws(4, "rows"))
        shapes[tuple(x.shape[1:])] += 1
        met.update(ids(x))
        assert cond["tokens"][:, 0, 0].int().tolist() == [i + 1 for i in ids(x)]
    assert shapes == {(3, 16, 16): 24, (3, 8, 24): 6, (3, 24, 8): 6} and set(met.values()) == {4}
    parts = [data.rows(40, Draws(2, "rows", rank=r, world=2))[0] for r in range(2)]
    assert torch.equal(torch.cat(parts), data.rows(40, Draws(4, "rows"))[0])
    assert len(data.examples(7)["tokens"]) == 7


def test_prompts_from_files(tmp_path):
    prompts = [f"{i:03d}" + "x" * i for i in range(30)]
    data = CachedData(
        encode_prompts(prompts, tmp_path / "c", Text(), shard=8, show=False), shape=(3, 2, 2), held_out=0.2
    )
    x, cond = data.rows(0, Draws(len(data), "rows"))
    assert x is None and data.shape == (3, 2, 2) and len(data) + data.held_out == 30
    assert sorted(
        cond["tokens"][:, 0, 0].int().tolist() + [len(p) for p in data.captions(data.held_out)]
    ) == list(range(3, 33))
    with pytest.raises(StillhouseError, match="holds no samples, whose shape must be given"):
        CachedData(tmp_path / "c")


def test_what_a_path_means(tmp_path, caplog):
    place = pictures(tmp_path / "p", 6)
    (tmp_path / "prompts.txt").write_text("one\nfour\nseventeen\n")
    known = model(text=Text(), codec=Codec())
    told = data_for(known, tmp_path / "prompts.txt", show=False)
    assert (
        isinstance(told, Prompts)
        and told.shape == (3, 2, 2)
        and len(told.bank["tokens"]) == 2
        and not list(tmp_path.glob("*.cache"))
    )
    filed = data_for(known, tmp_path / "prompts.txt", cache=tmp_path / "told", show=False)
    assert (
        isinstance(filed, CachedData)
        and filed.rows(0, Draws(3, "rows"))[0] is None
        and filed.shape == (3, 2, 2)
    )
    drawn = data_for(known, place, held_out=0.0, show=False)
    x, cond = drawn.rows(0, Draws(6, "rows"))
    assert (tmp_path / "p.cache" / "index.json").exists() and drawn.shape == x.shape[1:] == (3, 2, 2)
    assert cond["tokens"][:, 0, 0].int().tolist() == [i + 1 for i in ids(x)]
    grey = data_for(model((1, 16, 16)), place, cache=tmp_path / "grey", show=False)
    assert (
        grey.shape == (1, 16, 16) and grey.rows(0, Draws(2, "rows"))[1] is None and grey.examples(3) is None
    )
    several = data_for(known, place, cache=tmp_path / "several", bucket_count=3, show=False)
    assert several.shape == (3, 2, 2) and len(several.cache.key["sizes"]) == 3
    for teacher, path, sentence in (
        (model(), tmp_path / "prompts.txt", "takes no prompts"),
        (model((2,)), place, "are no images"),
        (model((4, 8, 8)), place, "4 channels and has no codec"),
        (known, tmp_path / "nowhere", "There is no data at"),
    ):
        with pytest.raises(StillhouseError, match=sentence):
            data_for(teacher, path, show=False)


def test_no_prompt_is_dropped():
    known = model(text=Text())
    assert len(known.condition_of(3, ["a", "b"])["tokens"]) == 3
    with pytest.raises(StillhouseError, match="3 prompts need as many samples, not 2"):
        known.condition_of(2, ["a", "b", "c"])


def test_labels_of_a_class_model(tmp_path):
    for name in "012":
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.new("L", (8, 8), int(name)).save(tmp_path / "p" / name / "a.png")
    data = data_for(model((1, 8, 8), classes=5), tmp_path / "p", held_out=0.0, show=False)
    x, labels = data.rows(0, Draws(3, "rows"))
    assert data.classes == 5 and labels.tolist() == ids(x) and data.examples(6).tolist() == [0, 1, 2, 3, 4, 0]
    unlabelled = data_for(model((1, 8, 8), classes=5), pictures(tmp_path / "q", 2, ((8, 8),)), show=False)
    assert (
        unlabelled.classes == 0
        and unlabelled.rows(0, Draws(2, "rows"))[1] is None
        and unlabelled.examples(2) is None
    )


def test_latents_of_another_size_are_refused_by_the_run(tmp_path):
    world = get_world("digits")
    teacher = load(world.network(Flow(), channels=(8,), classes=0), shape=(1, 8, 8))
    data = data_for(model((1, 16, 16)), pictures(tmp_path / "p", 2), show=False)
    with pytest.raises(StillhouseError, match=r"samples of shape \(1, 8, 8\), the data has \(1, 16, 16\)"):
        Trainer(find("dmd2")(), teacher, data, Recipe(steps=2, batch=2))


def test_a_tiny_stable_diffusion_learns_from_a_folder(tmp_path, caplog):
    from stillhouse.io.pipelines import tiny

    teacher = load(tiny.build("sd", tmp_path / "sd"))
    place = pictures(tmp_path / "p", 5, ((64, 64), (96, 48)))
    (place / "broken.png").write_bytes(io.BytesIO(b"no").getvalue())
    with caplog.at_level(logging.WARNING, "stillhouse"):
        data = data_for(teacher, place, held_out=0.0, batch=2, dtype=torch.float32, show=False)
    x, cond = data.rows(0, Draws(5, "rows"))
    assert any("Skipped 'broken.png': it is no image." in r.getMessage() for r in caplog.records)
    assert x.shape == (5, *teacher.shape) and torch.isfinite(x).all() and cond["tokens"].shape[0] == 5
    told = teacher.text.encode(["x" * n for n in range(1, 6)])["tokens"]
    assert min(float((told - row).abs().amax((1, 2)).min()) for row in cond["tokens"]) < 1e-5
    kept = data_for(teacher, place, held_out=0.0, batch=2, dtype=torch.float32, show=False)
    assert torch.equal(kept.rows(0, Draws(5, "rows"))[0], x)
    student = Trainer(find("lora_distill")(), teacher, data, Recipe(steps=1, batch=2), quiet=True).fit()
    assert torch.isfinite(student.sample(1, "a red circle", steps=next(iter(student.samplings)))).all()


def test_a_run_takes_batches_of_several_sizes(tmp_path):
    sizes = buckets((16, 16), 8, 3)
    source = open_source(pictures(tmp_path / "p", 9, ((16, 16), (32, 16), (16, 32))))
    data = CachedData(encode_source(source, tmp_path / "c", (16, 16), channels=1, sizes=sizes, show=False))
    teacher = load(get_world("digits").network(Flow(), channels=(8,), classes=0), shape=(1, 16, 16))
    met = set()

    def note(trainer, step):
        met.add(tuple(trainer.data.rows(step * 3, Draws(3, "rows"))[0].shape[1:]))

    student = Trainer(find("cm")(), teacher, data, Recipe(steps=8, batch=3), quiet=True, on_step=note).fit()
    assert met == {(1, 16, 16), (1, 8, 24), (1, 24, 8)} and torch.isfinite(student.sample(2)).all()
