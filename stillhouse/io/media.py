"""Clips as files: a moving picture as .gif or .mp4, a contact sheet as .png, frames of a film back as a clip.

A GIF needs no more than Pillow; .mp4 needs PyAV, the extra ``stillhouse[video]``.
"""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillhouse.core.errors import StillhouseError, extra, require
from stillhouse.io.images import png, tile
from stillhouse.io.weights import atomic_write

log = logging.getLogger("stillhouse")

ENDINGS = (".gif", ".mp4", ".png")
SMALLEST = 64  # pixels: smaller frames are enlarged by a whole factor, so that one can see them
FASTEST_GIF = 50.0  # frames a second; viewers slow down anything faster
LONGEST = 10_000  # frames of a film that is read


def is_video(x: Tensor) -> bool:
    """Whether ``x`` is a batch of grey or coloured clips (B, F, 1 or 3, H, W)."""
    return x.dim() == 5 and x.shape[2] in (1, 3)


def pictures_of(clips: Tensor, columns: int = 0) -> np.ndarray:
    """Clips side by side, frame by frame; small ones are enlarged.

    Arguments:
        clips: in [-1, 1], (B, F, 1 or 3, H, W).
        columns: clips a row; 0: about square.

    Returns:
        Frames, (F, height, width, 1 or 3) uint8.
    """
    require(
        clips.dim() == 5 and clips.shape[1] > 0,
        f"A film needs clips (B, F, C, H, W) of one frame or more, not {tuple(clips.shape)}.",
    )
    require(
        is_video(clips) and len(clips) > 0,
        f"A film shows clips of 1 or 3 colours, not a tensor of shape {tuple(clips.shape)}.",
    )
    return np.stack([tile(_enlarged(frame), columns) for frame in clips.detach().unbind(1)])


def contact_sheet(clips: Tensor, most: int = 12) -> np.ndarray:
    """A clip a row, some of its frames side by side.

    Arguments:
        clips: in [-1, 1], (B, F, 1 or 3, H, W).
        most: frames of a clip, evenly spread.

    Returns:
        The sheet, (height, width, 1 or 3) uint8.
    """
    require(
        is_video(clips) and clips.numel() > 0,
        f"A contact sheet shows clips (B, F, 1 or 3, H, W), not a shape of {tuple(clips.shape)}.",
    )
    shown = torch.linspace(0, clips.shape[1] - 1, min(most, clips.shape[1])).round().long()
    picked = clips.detach()[:, shown]
    return tile(_enlarged(picked.flatten(0, 1)), columns=len(shown))


def save_clips(path: str | Path, clips: Tensor, *, fps: float = 8.0, columns: int = 0) -> Path:
    """Write clips as the name ends, whole or not at all.

    Arguments:
        path: ending in ``.gif`` or ``.mp4``, side by side, or ``.png``, as a contact sheet.
        clips: in [-1, 1], (B, F, 1 or 3, H, W).
        fps: frames a second, at most 50 for a ``.gif``.
        columns: clips a row; 0: about square.

    Returns:
        Where they are.

    Raises:
        StillhouseError: another ending, no frames, a rate that the format has not, or an ``.mp4`` without
            PyAV.
    """
    path = Path(path)
    require(path.suffix in ENDINGS, f"Clips are written as {', '.join(ENDINGS)}, not '{path.suffix}'.")
    require(
        math.isfinite(fps) and fps > 0, f"A film runs at a positive number of frames a second, not {fps}."
    )
    if path.suffix == ".png":
        atomic_write(path, png(contact_sheet(clips)))
    elif path.suffix == ".gif":
        atomic_write(path, gif(pictures_of(clips, columns), fps))
    else:
        pictures = _even(pictures_of(clips, columns))
        av = extra("av", "video")
        atomic_write(path, lambda part: _mp4(av, part, pictures, fps))
    return path


def read_clip(path: str | Path, *, fps: float | None = None) -> tuple[Tensor, float]:
    """A film as a clip.

    Arguments:
        path: ``.gif``, or any other with PyAV.
        fps: frames a second to take, which must divide the film's own rate; None: all.

    Returns:
        The clip, (F, 3, H, W) in [-1, 1], and its frames a second; raises :class:`StillhouseError` for a file
        that is missing or no film, and for a rate that does not fit.
    """
    path = Path(path)
    require(path.is_file(), f"There is no film '{path}'.")
    frames, rate = _read_gif(path) if path.suffix.lower() == ".gif" else _read_film(path)
    require(len(frames) > 0, f"The film '{path}' has no frames.")
    every = 1 if fps is None else round(rate / fps)
    if fps is not None:
        fits = every >= 1 and abs(rate / fps - every) < 0.02 * every
        require(
            fits,
            f"The film '{path}' runs at {rate:g} frames a second, which {fps:g} does not divide; convert "
            "it to a multiple of that.",
        )
    pixels = torch.from_numpy(np.stack(frames[::every])).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1, rate / every


def read_sound(path: str | Path, fps: float) -> Tensor:
    """A sound cut into the frames of a film; what is left over at the end is dropped.

    Arguments:
        path: a ``.wav`` file, 8 or 16 bits, whose channels are averaged.
        fps: the film's frames a second.

    Returns:
        Numbers in [-1, 1], (F, T), a row a frame; raises :class:`StillhouseError` for a file that is missing
        or no such sound, and for one that is shorter than a frame.
    """
    import wave

    path = Path(path)
    require(path.is_file(), f"There is no sound '{path}'.")
    require(
        math.isfinite(fps) and fps > 0, f"A film runs at a positive number of frames a second, not {fps}."
    )
    try:
        with wave.open(str(path)) as file:
            rate, width, channels, content = (
                file.getframerate(),
                file.getsampwidth(),
                file.getnchannels(),
                file.readframes(file.getnframes()),
            )
    except (wave.Error, EOFError) as error:
        raise StillhouseError(f"'{path}' is no whole .wav file: {error}.") from error
    require(width in (1, 2), f"The sound '{path}' has {8 * width} bits a number; convert it to 16.")
    whole = content[: len(content) // (width * channels) * width * channels]
    numbers = torch.from_numpy(np.frombuffer(whole, "<i2" if width == 2 else "u1").astype(np.float32))
    each, sound = (
        int(rate / fps),
        (numbers / 32768 if width == 2 else numbers / 128 - 1).reshape(-1, channels).mean(1),
    )
    require(
        0 < each <= len(sound),
        f"The sound '{path}' lasts {len(sound) / rate:.3g} s, less than one frame at {fps:g} frames a "
        "second.",
    )
    starts = [round(frame * rate / fps) for frame in range(int(len(sound) * fps / rate))]
    return torch.stack([sound[start : start + each] for start in starts if start + each <= len(sound)])


def _enlarged(frames: Tensor) -> Tensor:
    factor = math.ceil(SMALLEST / max(frames.shape[-2:]))
    return frames.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def _even(pictures: np.ndarray) -> np.ndarray:
    """Padded to an even height and width, which the codec of .mp4 needs."""
    height, width = pictures.shape[1:3]
    if height % 2 or width % 2:
        log.warning(
            "An .mp4 has even sides: the film of %d x %d pixels is padded to %d x %d.",
            *_round_up(height, width),
        )
    return np.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _round_up(height: int, width: int) -> tuple[int, int, int, int]:
    return width, height, width + width % 2, height + height % 2


def gif(pictures: np.ndarray, fps: float) -> bytes:
    """Frames as the bytes of a GIF, with one palette for all.

    Arguments:
        pictures: (F, height, width, 1 or 3) uint8.
        fps: frames a second, at most 50.

    Returns:
        The file's bytes.
    """
    from PIL import Image

    require(
        fps <= FASTEST_GIF,
        f"A .gif shows at most {FASTEST_GIF:g} frames a second, not {fps:g}; write an .mp4 or lower the "
        "rate.",
    )
    # a GIF counts in hundredths of a second: round where each frame begins, so that the whole film has the
    # right length
    begins = np.round(np.arange(len(pictures) + 1) * 100 / fps)
    frames = [Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pictures]
    # one palette for all frames: colours that are chosen frame by frame would flicker by themselves
    if pictures.shape[3] == 3:
        some = pictures[:: max(1, len(pictures) // 8)]
        palette = Image.fromarray(some.reshape(-1, *some.shape[2:])).quantize(255, dither=Image.Dither.NONE)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    durations = [int(10 * d) for d in np.diff(begins)]
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
    )
    return buffer.getvalue()


def _mp4(av: Any, path: Path, pictures: np.ndarray, fps: float) -> None:
    from fractions import Fraction

    with av.open(str(path), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3))), format="rgb24"
            )
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


def _read_gif(path: Path) -> tuple[list[np.ndarray], float]:
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as film:
            shown = [
                (np.asarray(frame.convert("RGB")), frame.info.get("duration", 100))
                for frame in ImageSequence.Iterator(film)
            ]
    except (OSError, SyntaxError) as error:
        raise StillhouseError(f"'{path}' is no whole film: {error}.") from error
    # an encoder keeps a frame that does not change once, for longer: the shortest time is that of one frame
    tick = max(min(duration for _, duration in shown), 10)
    times = [max(1, round(duration / tick)) for _, duration in shown]
    require(sum(times) <= LONGEST, f"'{path}' shows more than {LONGEST} frames; cut it.")
    frames = [frame for (frame, _), count in zip(shown, times, strict=True) for _ in range(count)]
    return frames, 1000 * len(frames) / max(sum(duration for _, duration in shown), tick)


def _read_film(path: Path) -> tuple[list[np.ndarray], float]:
    av = extra("av", "video")
    try:
        with av.open(str(path)) as film:
            require(len(film.streams.video) > 0, f"'{path}' holds no moving picture.")
            stream = film.streams.video[0]
            return [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)], float(
                stream.average_rate or 0
            )
    except (av.FFmpegError, OSError) as error:
        raise StillhouseError(f"'{path}' is no whole film: {error}.") from error
