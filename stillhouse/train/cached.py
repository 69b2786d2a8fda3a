"""Encoded data for the loop, read from its files as it is needed; and the data that was meant by a path."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillhouse import forms
from stillhouse.core.conditions import Condition, balanced_labels, cycled, join, move
from stillhouse.core.draws import Draws, seed_of
from stillhouse.core.errors import require, required
from stillhouse.io.data import (
    Cache,
    buckets,
    encode_prompts,
    encode_source,
    open_cache,
    open_source,
    read_prompts,
    split_prompts,
)
from stillhouse.io.data.lerobot import Scale, read_lerobot
from stillhouse.io.data.prepare import Size
from stillhouse.io.data.prompts import PROMPT_FILES, is_held_out
from stillhouse.model import Model
from stillhouse.train.data import Data, Prompts, TensorData

log = logging.getLogger("stillhouse")

IN_MEMORY = 1000  # prompts; longer lists go through files
LOOKED_AT = 256  # rows that are kept for examples


class CachedData:
    """The rows of a :class:`Cache`, from its files. What is held out is never a row; :meth:`examples` are of
    it.

    With pictures of several sizes all rows of a global batch are of one, each size as often as it has rows;
    every row of a size is seen once before one is seen again.

    Arguments:
        cache: the rows, or the folder that holds them.
        held_out: share of the rows in [0, 1), chosen by the hash of their names, so the same in every run.
            Data that has a split of its own for this is held out by that, whatever the share.
        seed: of the order, which changes every epoch.
        shape: of one sample; needed for a cache of prompts, whose rows have no samples.
    """

    def __init__(
        self,
        cache: Cache | str | Path,
        *,
        held_out: float = 0.0,
        seed: int = 0,
        shape: tuple[int, ...] | None = None,
    ):
        require(0 <= held_out < 1, f"The share that is held out lies in [0, 1), not {held_out}.")
        self.cache = cache if isinstance(cache, Cache) else open_cache(cache)
        self.seed = seed
        self.shape = tuple(
            required(
                self.cache.shape or shape, "A cache of prompts holds no samples, whose shape must be given."
            )
        )
        self.classes: int = self.cache.key.get("classes", 0) if self.cache.labelled else 0
        self._split(held_out)
        self._orders: dict[str, tuple[int, Tensor]] = {}
        self._cycle: tuple[tuple[int, int], Tensor, Tensor] | None = None

    def _split(self, share: float) -> None:
        """The rows to learn from by size, and some to look at: those held out, or the first where there are
        none."""
        kept: dict[str, list[int]] = {tag: [] for tag in self.cache.counts}
        first: list[tuple[str, int, str]] = []
        held: list[tuple[str, int, str]] = []
        seen = dict.fromkeys(kept, 0)
        entries = list(self.cache.entries())
        own = any(apart for _, _, _, apart in entries)  # the data has a split for this
        for tag, name, caption, apart in entries:
            row = tag, seen[tag], caption or ""
            seen[tag] += 1
            if apart or (not own and share and is_held_out(name, share)):
                held.append(row)
            else:
                kept[tag].append(row[1])
                first += [row] if len(first) < LOOKED_AT else []
        require(
            bool(first) or not own,
            f"The cache in '{self.cache.folder}' holds nothing but rows that are held out; of those to learn "
            "from, no picture could be used.",
        )
        if not first:  # so few that all would be held out
            first, held = held, []
            kept = {tag: list(range(count)) for tag, count in seen.items()}
        self.held_out = len(held)
        self.kept = {tag: torch.tensor(rows) for tag, rows in sorted(kept.items()) if rows}
        self._shown = sorted((held or first)[:LOOKED_AT])  # one size after the other, as they are read

    def __len__(self) -> int:
        """Rows to learn from."""
        return sum(map(len, self.kept.values()))

    def rows(self, start: int, draws: Draws) -> tuple[Tensor | None, Condition]:
        """The rows of one batch, of one size.

        Arguments:
            start: samples that the whole run has used before.
            draws: how many rows, of which process, on which device; no random number is drawn.

        Returns:
            Samples (rows, *shape), None for a cache of prompts; and their condition, None for none.
        """
        tag, first = self._place(start, draws.rows * draws.world)
        where = torch.arange(draws.rows) + first + draws.rank * draws.rows
        rows, n = self.kept[tag], len(self.kept[tag])
        index = torch.cat(
            [
                rows[self._order(tag, int(e))[where[where // n == e] % n]]
                for e in torch.unique_consecutive(where // n)
            ]
        )
        x, cond = self._read(tag, index)
        return None if x is None else x.to(draws.device), move(cond, draws.device)

    def _read(self, tag: str, index: Tensor) -> tuple[Tensor | None, Condition]:
        x, cond = self.cache.read(tag, index)
        return x, None if self.cache.key.get("classes") and not self.classes else cond

    def _order(self, tag: str, epoch: int) -> Tensor:
        if self._orders.get(tag, (-1,))[0] != epoch:
            generator = torch.Generator().manual_seed(
                seed_of(self.seed, "epoch", *([tag] if len(self.kept) > 1 else []), epoch)
            )
            self._orders[tag] = epoch, torch.randperm(len(self.kept[tag]), generator=generator)
        return self._orders[tag][1]

    def _place(self, start: int, whole: int) -> tuple[str, int]:
        """The size that a global batch of ``whole`` rows is of, and the place among the rows of that size
        where it begins."""
        tags = list(self.kept)
        if len(tags) == 1:
            return tags[0], start
        counts = torch.tensor([len(rows) for rows in self.kept.values()])
        # a cycle of batches in which each size has its share, the rarest four of them
        shares = (4 * counts / min(whole, int(counts.min()))).round().long()
        number, within = divmod(start, whole)
        cycle, place = divmod(number, int(shares.sum()))
        if self._cycle is None or self._cycle[0] != (whole, cycle):
            generator = torch.Generator().manual_seed(seed_of(self.seed, "sizes", cycle))
            order = torch.repeat_interleave(torch.arange(len(tags)), shares)
            self._cycle = (whole, cycle), order[torch.randperm(len(order), generator=generator)], shares
        size = int(self._cycle[1][place])
        earlier = cycle * int(shares[size]) + int((self._cycle[1][:place] == size).sum())
        return tags[size], earlier * whole + within

    def examples(self, n: int) -> Condition:
        if self.classes:
            return balanced_labels(n, self.classes)
        shown = self._shown[:n]
        parts = [
            self._read(tag, torch.tensor([row for t, row, _ in shown if t == tag]))[1]
            for tag in dict.fromkeys(t for t, _, _ in shown)
        ]
        return cycled(join(parts), n)

    def captions(self, n: int) -> list[str]:
        """The captions of :meth:`examples`, empty where there are none."""
        return [self._shown[i % len(self._shown)][2] for i in range(n)]


def data_for(
    model: Model,
    path: str | Path,
    *,
    cache: str | Path | None = None,
    seed: int = 0,
    held_out: float = 0.02,
    bucket_count: int = 1,
    batch: int = 8,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str | None = None,
    refresh: bool = False,
    show: bool = True,
) -> Data:
    """The data at ``path`` as ``model`` takes it.

    Images become latents by the model's codec (pixels where it has none), captions conditions by its text
    encoder, class folders and ``label`` columns labels where it has classes. The codec and the text encoder
    are left where they were when the encoding is done.

    Arguments:
        model: whose codec, text encoder, classes and shape decide what the rows are.
        path: a file of prompts, or images (see :func:`stillhouse.io.data.open_source`); for a policy a folder
            of demonstrations (see :func:`stillhouse.io.data.lerobot.read_lerobot`).
        cache: folder of what is encoded; None: ``PATH.cache`` beside the data, and up to 1000 prompts stay in
            memory.
        seed: of the order of the rows.
        held_out: share of the rows kept for :meth:`CachedData.examples`, in [0, 1); data with a split of
            its own for this is held out by that.
        bucket_count: sizes of about the model's area with aspect ratios from 1:2 to 2:1; 1: its own size
            alone.
        batch: images that are encoded at once.
        dtype: of what is stored.
        device: of the encoding; None: the GPU if there is one.
        refresh: encode again what is stored already.
        show: a progress bar.

    Returns:
        Prompts in memory, demonstrations in memory, or a :class:`CachedData`.
    """
    path = Path(path)
    if forms.of(model).policy:
        return _demonstrations(model, path, seed)
    kept = Path(cache) if cache else _beside(path)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if path.is_file() and path.suffix.lower() in PROMPT_FILES:
        require(model.text is not None, f"The model takes no prompts, so '{path}' is no data for it.")
        prompts = read_prompts(path)
        with _placed(model, device):
            if cache or len(prompts) > IN_MEMORY:
                made = encode_prompts(prompts, kept, model.text, dtype=dtype, refresh=refresh, show=show)
                return CachedData(made, held_out=held_out, seed=seed, shape=tuple(model.shape))
            return _prompts(model, prompts, held_out)
    source = open_source(path)
    size, channels, multiple = _pixels(model)
    sizes = buckets(size, multiple, bucket_count) if bucket_count > 1 else []
    with _placed(model, device):
        made = encode_source(
            source,
            kept,
            size,
            codec=model.codec,
            text=model.text,
            sizes=sizes,
            channels=channels,
            classes=model.classes,
            batch=batch,
            dtype=dtype,
            device=device if model.codec else "cpu",
            refresh=refresh,
            show=show,
        )
    return CachedData(made, held_out=held_out, seed=seed)


def _beside(path: Path) -> Path:
    """The folder of what is encoded of data, beside it; of "." that is beside the folder it stands for."""
    place = path if path.name not in ("", "..") else path.resolve()
    require(
        bool(place.name), f"There is no place beside '{path}' for what is encoded of it; name a run's folder."
    )
    return place.with_name(f"{place.name}.cache")


def _prompts(model: Model, prompts: list[str], held_out: float) -> Prompts:
    assert model.text is not None
    mine, shown = split_prompts(prompts, held_out)
    encode = model.text.encode

    def bank(of: list[str]) -> Condition:
        with torch.no_grad():
            return join([move(encode(of[start : start + 64]), "cpu") for start in range(0, len(of), 64)])

    return Prompts(tuple(model.shape), bank(mine), bank(shown) if shown else None)


def _demonstrations(model: Model, path: Path, seed: int) -> TensorData:
    """A LeRobot folder as chunks for a policy: conditioned on its observations, in the scales that it was
    trained in."""
    scales = (
        {name: Scale.read(config) for name, config in model.info["scales"].items()}
        if "scales" in model.info
        else None
    )
    shown = read_lerobot(path, model.shape[0], scales=scales)
    actions, seen = shown.chunks.shape[2], shown.seen.shape[1]
    features = (getattr(model.denoiser.net, "config", None) or {}).get("features", seen)
    same = (actions, seen) == (model.shape[1], features)
    require(
        same,
        f"The policy takes {features} observed numbers and {model.shape[1]} actions; '{path}' has {seen} and "
        f"{actions}.",
    )
    return TensorData(shown.chunks, {"features": shown.seen}, seed=seed)


def _pixels(model: Model) -> tuple[Size, int, int]:
    """Height and width of the images that a model's samples are made of, their channels, and what their sides
    must be divisible by."""
    shape = tuple(model.shape)
    require(
        len(shape) == 3,
        f"The model makes samples of shape {shape}, which are no images; give it data of its own as tensors.",
    )
    if model.pipeline is not None:
        size, multiple = model.pipeline.size, model.pipeline.pixels * model.pipeline.patch
    elif model.codec is not None:
        with torch.no_grad():
            height, width = model.codec.decode(torch.zeros(1, *shape)).shape[-2:]
        size, multiple = (height, width), height // shape[1]
    else:
        size, multiple = (shape[1], shape[2]), 8
    channels = 3 if model.codec is not None else shape[0]
    require(
        channels in (1, 3),
        f"The model makes samples of {channels} channels and has no codec, so images are no data for it.",
    )
    return size, channels, multiple


@contextmanager
def _placed(model: Model, device: torch.device) -> Iterator[None]:
    """The model's codec and text encoders on ``device`` inside the block, and back where they were after
    it."""
    parts: dict[int, Any] = {}
    for part in (model.codec, model.text):
        owner = getattr(part, "family", part)  # a pipeline's encoders look at where the whole pipeline is
        movable = getattr(owner, "pipe", owner)
        if hasattr(movable, "to") and hasattr(movable, "device"):
            parts[id(movable)] = movable
    before = [(part, part.device) for part in parts.values() if torch.device(part.device).type != device.type]
    for part, _ in before:
        part.to(device)
    try:
        yield
    finally:
        for part, place in before:
            part.to(place)
