"""``stillhouse sample RUN --image photo.jpg``: restore a whole photograph, tile by tile."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.errors import require

if TYPE_CHECKING:
    from stillhouse.model import Model

OUT = "restored.png"


def add_image(parser: argparse.ArgumentParser) -> None:
    """The options of this form of ``sample``."""
    group = parser.add_argument_group("a photograph, restored")
    group.add_argument(
        "--image",
        metavar="FILE",
        help="photograph of any size; a x4 model makes it 4 times as large [restored.png]",
    )
    group.add_argument(
        "--scale", type=int, metavar="N", help="how many times larger it becomes [as the model was trained]"
    )
    group.add_argument(
        "--tile", type=int, default=64, metavar="PIXELS", help="side of the tiles that the network sees [64]"
    )
    group.add_argument(
        "--overlap", type=int, default=16, metavar="PIXELS", help="what neighbouring tiles share [16]"
    )


def sample_image(model: Model, given: argparse.Namespace) -> int:
    """Restore the photograph ``given.image`` by ``model`` and write it to ``given.out``."""
    import torch
    from tqdm import tqdm

    from stillhouse.core.draws import Draws
    from stillhouse.io.photo import FORMATS, Photo, read_photo, write_photo
    from stillhouse.samplers.tiled import Tiled, restore

    require(
        model.cond_kind == "image" and model.form == "image",
        "This model restores no photographs: it is told no image.",
    )
    require(
        not (given.prompt or given.prompts or given.labels),
        "A photograph is restored without labels and prompts; leave them away.",
    )
    require(
        given.n in (None, 1),
        f"One photograph is restored at a time, not {given.n}; other seeds give other copies.",
    )
    out = Path(OUT if given.out == "samples" else given.out)
    require(
        not out.suffix or out.suffix.lower() in FORMATS,
        f"A picture is written as {', '.join(FORMATS)}, not '{out.suffix}'.",
    )
    scale = given.scale if given.scale is not None else scale_of(model, given.model)
    require(1 <= scale <= 8, f"A photograph becomes 1 to 8 times as large, not {scale}.")
    photo = read_photo(given.image, scale).enlarged(scale)
    sampling, device = model.sampling(given.steps, given.guidance), model.denoiser.device

    least = model.shape[-1]
    tiled = Tiled(
        model.denoiser, given.tile, given.overlap
    )  # refuses tiles that don't fit before anything is shown
    sides = [max(least, side) for side in photo.colour.shape[-2:]]
    tiles, calls = len(tiled.places(sides[0], sides[1])), sampling.nfe(model.denoiser)
    with tqdm(total=tiles * calls, desc="restore", unit="tile", dynamic_ncols=True, leave=False) as bar:
        draws = Draws(1, given.seed, "photograph", device=device)
        how = {"least": least, "tile": given.tile, "overlap": given.overlap, "tick": bar.update}
        restored = restore(model.denoiser.eval(), sampling, photo.colour[None].to(device), draws, **how)[
            0
        ].cpu()
    require(
        bool(torch.isfinite(restored).all()),
        "The restored picture is not finite; is this the model of another scale?",
    )
    path = write_photo(out, Photo(restored, photo.alpha, photo.grey))
    high, wide = restored.shape[-2:]
    print(
        f"{path}: {wide} x {high} pixels, {scale} times as large, in {len(sampling.times) - 1} step(s), "
        f"{calls} call(s) on {tiles} tiles"
    )
    return 0


def scale_of(model: Model, source: str) -> int:
    """How many times larger a restoring model makes a picture: as the world of its run or recipe says."""
    from stillhouse.api.options import read_yaml
    from stillhouse.worlds.photos.degrade import SCALES

    runs = [p for folder in (Path(source), Path(source).parent) if (p := folder / "run.yaml").is_file()]
    world = read_yaml(runs[0]).get("world") if runs else model.info.get("recipe", {}).get("world")
    task = world.get("task", "x4") if isinstance(world, dict) else "x4"
    return SCALES.get(task, 4)
