"""Fill a cache: images through a codec, captions through a text encoder, in batches of one picture size."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from stillhouse.core.conditions import Condition, apply, flattened, join, move
from stillhouse.core.draws import seed_of
from stillhouse.core.errors import require
from stillhouse.core.processes import process_count, process_rank
from stillhouse.io.data.cache import DIGESTS, INDEX, Cache, fill
from stillhouse.io.data.files import Digests
from stillhouse.io.data.prepare import Size, nearest, to_tensor, upright
from stillhouse.io.data.rows import Row, Source
from stillhouse.io.data.splits import TRAIN

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("stillhouse")

READER = 2  # of the rows that a cache holds; raised when data sets come to be read as other rows
DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Encoder(Protocol):
    """A codec's half that makes latents."""

    def encode(self, images: Tensor) -> Tensor: ...


def encode_source(
    source: Source,
    folder: str | Path,
    size: Size,
    *,
    codec: Encoder | None = None,
    text: Any = None,
    sizes: Sequence[Size] = (),
    channels: int = 3,
    classes: int = 0,
    batch: int = 8,
    shard: int = 256,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
    refresh: bool = False,
    show: bool = True,
) -> Cache:
    """Every usable image of a source as latents, with its caption's condition or its label.

    What is in ``folder`` already is taken over if the same data, sizes and encoders made it; if not,
    :class:`StillhouseError` says what differs, unless ``refresh``. Under several processes each encodes its
    share.

    Arguments:
        source: the images; what it holds is printed, what it leaves out is warned of.
        folder: of the cache, made if missing.
        size: (height, width) in pixels.
        codec: makes latents of images (B, channels, height, width) in [-1, 1]; None keeps pixels.
        text: encodes captions (a row without one gets the empty condition); one whose answer depends on the
            picture's size has ``at(height, width)``, the same encoder for that size; None: no captions.
        sizes: each image goes to the one of the nearest aspect ratio; empty: all to ``size``.
        channels: of the images, 3 or 1.
        classes: without ``text``, labels in 0 … classes - 1, -1 for a row without; 0: no conditions.
        batch: images that are encoded at once.
        shard: rows of the source a file.
        dtype: of what is stored.
        device: where images are encoded.
        refresh: encode again what is stored already.
        show: a progress bar.

    Returns:
        The finished cache.
    """
    require(dtype in DTYPES, f"A cache keeps {', '.join(DTYPES.values())}, not {dtype}.")
    require(batch >= 1 and shard >= 1, f"A batch and a shard hold at least one row, not {batch} and {shard}.")
    require(
        TRAIN in source.contents.parts,
        f"'{source.path}' holds nothing but pictures that are held out "
        f"({', '.join(source.contents.parts)}); to "
        "learn from them, name the folder that they lie in.",
    )
    choices = list(sizes) or [size]
    place = process_rank(), process_count()
    if place[0] == 0:
        source.announce(partial(tqdm.write, file=sys.stderr) if show else None)
    digests = Digests(source.path, Path(folder) / DIGESTS, show=show and place[0] == 0)
    key = {
        "source": source.fingerprint_by(digests),
        "reader": READER,
        "encoded": "images" if codec else "pixels",
        "size": list(size),
        "sizes": sorted(map(list, sizes)),
        "channels": channels,
        "classes": 0 if text else classes,
        "dtype": DTYPES[dtype],
        "shard": shard,
    }
    small = 0

    def encoded(images: Tensor, names: Sequence[str]) -> Tensor:
        with torch.no_grad():
            latents = codec.encode(images.to(device)).float().cpu() if codec else images
        return _kept(latents, dtype, names, "the codec")

    def conditions_of(rows: Sequence[Row], at: Size) -> Condition:
        if text is None:
            return torch.tensor([-1 if row.label is None else row.label for row in rows]) if classes else None
        sized = text.at(*at) if sizes and hasattr(text, "at") else text
        return _encoded(sized, [row.caption or "" for row in rows], dtype)

    def probe(prompts: list[str] | None) -> tuple[dict[str, Tensor], list[str]]:
        prompts = _wanted(row.caption for row in source.rows()) if prompts is None else prompts
        coarse = torch.randn(1, channels, 4, 4, generator=torch.Generator().manual_seed(seed_of("probe")))
        image = torch.nn.functional.interpolate(coarse, size, mode="bilinear").clamp(-1, 1)
        with torch.no_grad():
            answers = {
                "x": codec.encode(image.to(device)).float().cpu()
                if codec
                else torch.zeros(1, channels, *size)
            }
        return {**answers, **flattened(_encoded(text, prompts, torch.float32) if text else None)}, prompts

    def ready(row: Row) -> tuple[Size, Tensor, bool] | None:
        bad = classes and not text and row.label is not None and not 0 <= row.label < classes
        require(
            not bad, f"'{row.name}' is of class {row.label}, but the model's classes are 0 … {classes - 1}."
        )

        def prepared(image: Image) -> tuple[Size, Tensor, bool]:
            height, width = upright(image)
            at = nearest((height, width), choices)
            return at, to_tensor(image, at, channels), height < at[0] or width < at[1]

        return source.read(row, prepared)

    def make(rows: Iterator[Row]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        nonlocal small
        waiting: dict[Size, list[tuple[Row, Tensor]]] = {}
        done: dict[Size, list[tuple[list[Row], Tensor, Condition]]] = {}
        skipped = {}

        def flush(at: Size) -> None:
            of = [row for row, _ in waiting[at]]
            x = {(row.name, row.content): x for row, x in waiting.pop(at)}  # once for several captions
            once = encoded(torch.stack(list(x.values())), [name for name, _ in x])
            number = {image: i for i, image in enumerate(x)}
            latents = once[[number[row.name, row.content] for row in of]]
            done.setdefault(at, []).append((of, latents, conditions_of(of, at)))

        for row, found in _ahead(ready, rows):
            bar.update()
            if found is None:
                skipped[row.name] = source.skipped[row.name]
                continue
            at, x, enlarged = found
            small += enlarged
            waiting.setdefault(at, []).append((row, x))
            if len(waiting[at]) == batch:
                flush(at)
        for at in list(waiting):
            flush(at)
        tensors: dict[str, Tensor] = {}
        names: dict[str, list[tuple[str, str | None]]] = {}
        held: dict[str, list[int]] = {}
        for at, parts in done.items():
            tag = f"{at[0]}x{at[1]}"
            cond = flattened(join([c for _, _, c in parts]))
            tensors |= {
                f"{tag}/{name}": part
                for name, part in {"x": torch.cat([x for _, x, _ in parts]), **cond}.items()
            }
            of_tag = [row for rows, _, _ in parts for row in rows]
            names[tag] = [(row.name, row.caption) for row in of_tag]
            held[tag] = [i for i, row in enumerate(of_tag) if row.split != TRAIN]
        labelled = any(
            (row.caption if text else row.label) is not None
            for parts in done.values()
            for rows, _, _ in parts
            for row in rows
        )
        return tensors, {"rows": names, "held": held, "skipped": skipped, "labelled": labelled}

    try:
        with tqdm(total=source.count, desc="encode", unit="image", disable=not show or place[0] > 0) as bar:
            cache = fill(
                folder, key, probe, source.rows(), make, refresh=refresh, place=place, tick=bar.update
            )
    finally:
        if place[0] == 0 and (Path(folder) / INDEX).is_file():
            digests.save()
    if small:
        log.warning("%d image(s) are smaller than the requested size and were enlarged.", small)
    if cache.skipped:
        log.warning("%d image(s) of '%s' are left out.", len(cache.skipped), source.path)
    if not cache.labelled and (text or classes):
        log.warning(
            "'%s' has no %s: every row has the empty condition.",
            source.path,
            "captions" if text else "labels",
        )
    return cache


def encode_prompts(
    prompts: Sequence[str],
    folder: str | Path,
    text: Any,
    *,
    batch: int = 64,
    shard: int = 1024,
    dtype: torch.dtype = torch.float16,
    refresh: bool = False,
    show: bool = True,
) -> Cache:
    """The conditions of prompts, kept as :func:`encode_source` keeps those of captions.

    Arguments:
        prompts: at least one.
        folder: of the cache, made if missing.
        text: the text encoder.
        batch: prompts that are encoded at once.
        shard: prompts a file.
        dtype: of what is stored.
        refresh: encode again what is stored already.
        show: a progress bar.

    Returns:
        The finished cache, whose rows are in the order of the prompts.
    """
    require(len(prompts) > 0, "There are no prompts to encode.")
    require(dtype in DTYPES, f"A cache keeps {', '.join(DTYPES.values())}, not {dtype}.")
    key = {"source": f"{seed_of(*prompts):x}", "encoded": "prompts", "dtype": DTYPES[dtype], "shard": shard}
    place = process_rank(), process_count()

    def probe(asked: list[str] | None) -> tuple[dict[str, Tensor], list[str]]:
        asked = _wanted(iter(prompts)) if asked is None else asked
        return flattened(_encoded(text, asked, torch.float32)), asked

    def make(rows: Iterator[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        mine, parts = list(rows), []
        for start in range(0, len(mine), batch):
            parts.append(_encoded(text, mine[start : start + batch], dtype))
            bar.update(len(mine[start : start + batch]))
        tensors = {f"/{name}": part for name, part in flattened(join(parts)).items()}
        return tensors, {"rows": {"": [(prompt, prompt) for prompt in mine]}, "skipped": {}, "labelled": True}

    with tqdm(total=len(prompts), desc="encode", unit="prompt", disable=not show or place[0] > 0) as bar:
        return fill(folder, key, probe, iter(prompts), make, refresh=refresh, place=place, tick=bar.update)


def _ahead(work: Callable[[Row], Any], rows: Iterator[Row]) -> Iterator[tuple[Row, Any]]:
    """Each row with what ``work`` makes of it, in order; a few threads open pictures while the encoders are
    busy with others."""
    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Row, Future[Any]]] = deque()
        for row in rows:
            waiting.append((row, pool.submit(work, row)))
            if len(waiting) > 2 * threads:
                row, made = waiting.popleft()
                yield row, made.result()
        for row, made in waiting:
            yield row, made.result()


def _wanted(captions: Iterator[str | None]) -> list[str]:
    """What a text encoder is known by: the data's own first caption (others may be beyond its vocabulary),
    and the empty one."""
    return [*filter(None, [next(filter(None, captions), None)]), ""]


def _encoded(text: Any, captions: Sequence[str], dtype: torch.dtype) -> Condition:
    with torch.no_grad():
        cond: Condition = move(text.encode(list(captions)), "cpu")
    return apply(
        lambda part: (
            _kept(part, dtype, captions, "the text encoder")
            if part.is_floating_point()
            else part.contiguous()
        ),
        cond,
    )


def _kept(values: Tensor, dtype: torch.dtype, names: Sequence[str], who: str) -> Tensor:
    """``values`` as they are kept; refused if they don't survive it."""
    kept = values.to(dtype).contiguous()
    lost = ~torch.isfinite(kept.flatten(1)).all(1)
    if bool(lost.any()):
        name = names[int(lost.nonzero()[0])]
        whole = bool(torch.isfinite(values[lost]).all())
        cure = "keep the cache in bfloat16 or float32" if whole else "run it in bfloat16 or float32"
        require(
            False,
            f"What {who} makes of '{name}' is {'too large for float16' if whole else 'not finite'}; {cure}.",
        )
    return kept
