"""``stillhouse sample RUN --frames N --out clip.gif``: clips as moving pictures, streamed by causal
students."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.core.errors import StillhouseError, require

if TYPE_CHECKING:
    from torch import Tensor

    from stillhouse.core.conditions import Condition
    from stillhouse.model import Model
    from stillhouse.worlds.base import World

OUT, FEW = "samples.gif", 6
NUMBERS = (".npy", ".safetensors")


def add_frames(parser: argparse.ArgumentParser) -> None:
    """The options of this form of ``sample``."""
    group = parser.add_argument_group("clips, as .gif, .mp4 or a contact sheet .png")
    group.add_argument(
        "--frames",
        type=int,
        help="how long a clip is; a causal student streams as many as you ask for [as it learned]",
    )
    group.add_argument("--fps", type=float, default=8.0, help="frames a second [8]")
    group.add_argument(
        "--sound",
        metavar="FILE",
        help="a .wav file that a model conditioned on audio follows; it sets the length",
    )


def sample_video(model: Model, given: argparse.Namespace, asked: Any) -> int:
    """Make clips of ``model`` under what was ``asked`` (prompts, labels, or None for its own) and write them
    to ``given.out``."""
    import torch
    from tqdm import tqdm

    from stillhouse.core.conditions import move
    from stillhouse.core.draws import Draws
    from stillhouse.io.images import save_samples
    from stillhouse.io.media import ENDINGS, save_clips
    from stillhouse.samplers.draw import draw_samples
    from stillhouse.samplers.streaming import stream

    out = Path(OUT if given.out == "samples" else given.out)
    require(
        out.suffix in (*ENDINGS, *NUMBERS),
        f"Clips are written as {', '.join((*ENDINGS, *NUMBERS))}, not '{out.suffix}'.",
    )
    sampling = model.sampling(given.steps, given.guidance)
    frames = model.shape[0] if given.frames is None else given.frames
    require(frames >= 1, f"A clip has at least one frame, not {frames}.")
    n = given.n if given.n is not None else len(asked) if isinstance(asked, list) else FEW
    world = _world(model, given.model)
    if model.cond_kind:
        asked, frames = _told(model, world, given, n, frames)
    shape = model.of_length(frames, sampling)
    cond = move(model.condition_of(n, asked), model.denoiser.device)
    draws, began, first = (
        Draws(n, given.seed, "sample", device=model.denoiser.device),
        time.perf_counter(),
        0.0,
    )
    model.denoiser.eval()
    if sampling.stream:
        chunks = []
        with tqdm(total=frames, desc="stream", unit="frame", dynamic_ncols=True, leave=False) as bar:
            for chunk in stream(model.denoiser, sampling, shape[1:], cond, draws, frames=frames):
                first = first or time.perf_counter() - began
                chunks.append(chunk.cpu())
                bar.update(chunk.shape[1])
        clips = torch.cat(chunks, 1)
    else:
        clips = draw_samples(model.denoiser, sampling, shape, cond, draws).cpu()
    seconds = time.perf_counter() - began
    clips = model.pictures(clips, cond)
    if out.suffix in NUMBERS:
        path = save_samples(out, clips)
    else:
        path = save_clips(out, _seen(world, clips), fps=given.fps, columns=given.columns)
    calls, steps = sampling.nfe(model.denoiser, conditional=model.conditional), len(sampling.times) - 1
    how = (
        f"{steps} step(s), {calls} network call(s) per "
        f"{f'chunk of {sampling.stream.chunk} frames' if sampling.stream else 'clip'}"
    )
    start = f", the first chunk after {first:.2f} s" if sampling.stream else ""
    print(f"{path}: {n} clip(s) of {frames} frames in {how}; {frames / seconds:.1f} frames a second{start}")
    return 0


def _world(model: Model, source: str) -> World | None:
    """The world that the model is of, if it fits: a run says which kind, a model alone only its name."""
    from stillhouse.api.options import read_yaml
    from stillhouse.worlds.base import open_world

    run = Path(source) / "run.yaml"
    entry = read_yaml(run).get("world") if run.is_file() else model.info.get("recipe", {}).get("world")
    if not (entry or model.world):
        return None
    world = open_world(entry or model.world)
    return world if tuple(world.shape[1:]) == tuple(model.shape[1:]) else None


def _seen(world: World | None, clips: Tensor) -> Tensor:
    """What one can look at."""
    shown = None if world is None else world.frames_of(clips)
    if shown is None:
        shown = clips
    require(
        shown.dim() == 5 and shown.shape[2] in (1, 3),
        f"Clips of shape {tuple(clips.shape[1:])} are no pictures; write them as .npy or .safetensors.",
    )
    return shown


def _told(
    model: Model, world: World | None, given: argparse.Namespace, n: int, frames: int
) -> tuple[Condition, int]:
    """What a model that hears something is cond: the sound of a file, or conditions of its world; and the
    clip's length."""
    condition: Callable[..., Condition] | None = getattr(world, "condition", None)
    listen: Callable[..., Tensor] | None = getattr(world, "listen", None)
    if world is None or condition is None or listen is None:
        raise StillhouseError(
            f"This model takes {model.cond_kind} for each clip; sample it in Python: model.sample(cond=…)."
        )
    if not given.sound:
        return condition(world.balanced_labels(n), frames), frames
    from stillhouse.io.media import read_sound

    require(
        given.frames is None, "The length of a clip follows from its sound; leave out --frames or --sound."
    )
    features = listen(read_sound(given.sound, given.fps))
    cond = condition(world.balanced_labels(n), features.shape[1])
    return {**cond, "features": features.expand(n, -1, -1)}, features.shape[1]
